//! The embedded programs, and what each attaches to.

/// The compiled programs; empty in a build without them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waxseal.bpf.o"));

/// Where a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The cgroup directory, with the kernel's number for the kind of hook.
    Cgroup(u32),
    /// A raw tracepoint.
    Tracepoint(&'static str),
    /// Devices that lead to other nodes: which way, and whether their frames begin with an Ethernet header.
    Border {
        /// Packets that come in; else those that leave.
        ingress: bool,
        /// Else the frame begins with the IP header.
        ethernet: bool,
    },
    /// Nowhere: it is run by hand.
    Nowhere,
}

/// One program of the object.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program, of its file, and of its pinned link.
    pub name: &'static str,
    /// Where it goes.
    pub place: Place,
}

// enum bpf_attach_type
const INET_INGRESS: u32 = 0;
const INET_EGRESS: u32 = 1;
const SOCK_OPS: u32 = 3;
const INET4_CONNECT: u32 = 10;
const INET6_CONNECT: u32 = 11;
const UDP4_SENDMSG: u32 = 14;
const UDP6_SENDMSG: u32 = 15;

/// Every program, in the order in which they attach: who keeps records comes before who asks for them.
pub const HOOKS: [Hook; 15] = [
    Hook { name: "cgroup_mkdir", place: Place::Tracepoint("cgroup_mkdir") },
    Hook { name: "cgroup_rmdir", place: Place::Tracepoint("cgroup_rmdir") },
    Hook { name: "cgroup_attach", place: Place::Tracepoint("cgroup_attach_task") },
    Hook { name: "sock_ops", place: Place::Cgroup(SOCK_OPS) },
    Hook { name: "skb_ingress", place: Place::Cgroup(INET_INGRESS) },
    Hook { name: "skb_egress", place: Place::Cgroup(INET_EGRESS) },
    Hook { name: "connect4", place: Place::Cgroup(INET4_CONNECT) },
    Hook { name: "connect6", place: Place::Cgroup(INET6_CONNECT) },
    Hook { name: "sendmsg4", place: Place::Cgroup(UDP4_SENDMSG) },
    Hook { name: "sendmsg6", place: Place::Cgroup(UDP6_SENDMSG) },
    Hook { name: "tc_ingress", place: Place::Border { ingress: true, ethernet: true } },
    Hook { name: "tc_ingress_bare", place: Place::Border { ingress: true, ethernet: false } },
    Hook { name: "tc_egress", place: Place::Border { ingress: false, ethernet: true } },
    Hook { name: "tc_egress_bare", place: Place::Border { ingress: false, ethernet: false } },
    Hook { name: "judge", place: Place::Nowhere },
];

/// The maps that outlive the agent.
pub const MAPS: [&str; 26] = [
    "SETTINGS",
    "POLLING",
    "KEYS",
    "ENDPOINTS",
    "EXPECTED",
    "IDENTITIES",
    "ADDRESSES",
    "ROWS",
    "PORT_SETS",
    "CONNECTIONS",
    "OPENINGS",
    "PENDING",
    "UDP_FLOWS",
    "UDP_SHARES",
    "UDP_UNSEALED",
    "COUNTERS",
    "FLOWS",
    "DENIALS",
    "CGROUPS",
    "SESSIONS",
    "ROUTES",
    "ARRIVALS",
    "ANNOUNCED",
    "COVERED",
    "NOTICES",
    "DATAGRAMS",
];
