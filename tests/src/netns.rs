//! Network namespaces, and the wires between them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::root;

/// A named network namespace whose loopback is up. Dropping it removes it with its interfaces.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// One end of a wire: its addresses and its hardware address.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// The IPv6 address, in a /64.
    pub v6: Ipv6Addr,
    /// The hardware address.
    pub mac: [u8; 6],
}

impl End {
    /// Both addresses.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl Netns {
    /// A new namespace.
    pub fn new(label: &str) -> Self {
        let namespace = Self { name: root::unique(label) };
        root::run("ip", &["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Where the namespace can be opened.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` for this namespace.
    pub fn ip(&self, arguments: &[&str]) -> String {
        root::run("ip", &[&["-n", self.name.as_str()], arguments].concat())
    }

    /// Sets a kernel setting below `/proc/sys/net`, for example `ipv4/ip_forward`.
    pub fn set(&self, key: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/net/{key}");
        root::run("nsenter", &[&format!("--net={}", self.path().display()), "sh", "-c", &script]);
    }

    /// A counter of `/proc/net/snmp`: `Tcp`, `InCsumErrors`.
    pub fn counter(&self, protocol: &str, name: &str) -> u64 {
        let net = format!("--net={}", self.path().display());
        let table = root::run("nsenter", &[&net, "cat", "/proc/self/net/snmp"]);
        let head = format!("{protocol}: ");
        let mut rows = table.lines().filter_map(|line| line.strip_prefix(&head));
        let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
        let place = names.split(' ').position(|word| word == name).expect("the kernel counts it");
        values.split(' ').nth(place).and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Feeds a rule set to `nft` inside the namespace.
    pub fn nft(&self, rules: &str) {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .args(["nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(rules.as_bytes()).expect("nft reads its rules (Debian: apt-get install nftables)");
        drop(stdin);
        assert!(child.wait().expect("nft ends").success(), "nft refused:\n{rules}");
    }

    /// Lays a wire from this namespace to another: subnet `number` gives 10.77.`number`.1 and fd77:`number`::1 to this end
    /// and .2 to the other. The interface is called `wire<number>` on both sides.
    pub fn wire(&self, other: &Self, number: u8) -> (End, End) {
        let name = format!("wire{number}");
        self.ip(&["link", "add", &name, "type", "veth", "peer", "name", &name, "netns", &other.name]);
        let near = self.dress(&name, number, 1);
        let far = other.dress(&name, number, 2);
        // The kernel looks at changes of carrier once a second; until then the interface swallows what is sent.
        for namespace in [self, other] {
            root::wait(&format!("{name} is up"), Duration::from_secs(5), || {
                namespace.ip(&["-brief", "link", "show", &name]).contains(" UP ").then_some(())
            });
        }
        (near, far)
    }

    fn dress(&self, interface: &str, subnet: u8, host: u8) -> End {
        let end = End {
            v4: Ipv4Addr::new(10, 77, subnet, host),
            v6: Ipv6Addr::new(0xfd77, u16::from(subnet), 0, 0, 0, 0, 0, u16::from(host)),
            mac: [2, 0x77, 0, 0, subnet, host],
        };
        let mac = end.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.ip(&["link", "set", interface, "address", &mac]);
        self.ip(&["addr", "add", &format!("{}/24", end.v4), "dev", interface]);
        self.ip(&["addr", "add", &format!("{}/64", end.v6), "dev", interface, "nodad"]);
        self.ip(&["link", "set", interface, "up"]);
        end
    }

    /// Sends everything that has no nearer route through another end of a wire.
    pub fn default_route(&self, via: &End) {
        self.ip(&["route", "replace", "default", "via", &via.v4.to_string()]);
        self.ip(&["-6", "route", "replace", "default", "via", &via.v6.to_string()]);
    }

    /// Lets packets pass through from wire to wire.
    pub fn forward(&self) {
        self.set("ipv4/ip_forward", "1");
        self.set("ipv6/conf/all/forwarding", "1");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}
