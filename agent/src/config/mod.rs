//! The agent's configuration: defaults, below the file, below the environment, below `--set`, below flags.
//!
//! Everything is parsed here, once. Whoever holds a [`Config`] holds values that were checked.

mod layers;
mod values;

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use waxseal_common::LAYOUT;
use waxseal_common::tables::Mode;

use crate::cidr::Cidr;
use crate::escape::escape;
use crate::nearest::nearest;
use crate::spiffe::TrustDomain;

pub use layers::{FileError, Inputs, Source};
pub use values::{Problem, duration};

/// The file that is read when none is named. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/waxseal/agent.yaml";

/// The port on which agents meet.
pub const AGENT_PORT: u16 = 7461;
/// The port of a CA server.
pub const CA_PORT: u16 = 7463;

/// The keys, in the order in which they are shown, and what each means. The same words everywhere: `trust_domain` in the
/// file and with `--set`, `WAXSEAL_TRUST_DOMAIN` in the environment.
pub const KEYS: [(&str, &str); 28] = [
    ("instance", "name of this agent among several on one kernel: [a-z0-9-], at most 32"),
    ("cgroup_root", "cgroup v2 directory to attach to; the whole hierarchy unless given"),
    ("policies", "directory of the policy documents"),
    ("state", "directory of what must survive a restart"),
    ("runtime", "directory of the control socket"),
    ("bpffs", "where the BPF file system is mounted"),
    ("trust_domain", "SPIFFE trust domain of this node"),
    ("node", "name of this node in its own certificate: letters, digits, `.`, `-` and `_`, at most 63"),
    ("ca", "who signs certificates: own, HOST:PORT of a CA server, or a directory of PEM files"),
    ("join_token", "file of the token with which to join the CA server; 0600"),
    ("leaf_lifetime", "how long certificates of this node's own CA live, 1m to 7d"),
    ("session_lifetime", "how long a session with another node is believed at most, 2s to 1h"),
    ("listen", "address of the port for other agents, or off; off unless given when ca is own"),
    ("mode", "mode of workloads that nothing else gives one: permissive, audit or enforce"),
    ("grace", "how long connections older than the agent may go on unrecorded, at most 1h"),
    ("udp_idle", "after how long without a datagram a UDP flow has ended, 10s to 2m"),
    ("managed", "cgroup directories below which every process must be a workload"),
    (
        "mesh",
        "address ranges where workloads may live; RANGE=ADDRESS where another address's agent answers for them",
    ),
    ("uplinks", "devices that lead to other nodes, beside those that routes to a gateway show"),
    ("connections", "capacity of the connection tables"),
    ("flow_ring", "bytes of the ring of flow events, a power of two"),
    ("denial_ring", "bytes of the ring of denials, a power of two"),
    ("history", "bytes that the flows of the past may take below `state`; off for none"),
    ("history_age", "how long the flows of the past are kept, at most 8760h"),
    ("metrics", "address and port for Prometheus, /healthz and /readyz; off for none"),
    ("metrics_pairs", "how many pairs of workloads get metrics of their own, at most 1000; 0 for none"),
    ("tap_from_nodes", "names of nodes that may read the flows of this one with `waxseal tap`; * for all"),
    ("log", "log filter: error, warn, info, debug, trace, or target=level pairs"),
];

/// Private, shared, link-local and loopback ranges: where machines and containers live that call each other by address.
const MESH: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
];

/// Who signs the certificates of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// A CA of its own below the state directory, made at the first start.
    Own,
    /// A CA server: `HOST:PORT`.
    Server(String),
    /// A directory of an existing CA's files, or one that `waxseal ca init` has made.
    Files(PathBuf),
}

impl fmt::Display for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Server(address) => f.write_str(address),
            Self::Files(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What the agent was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this agent among several on one kernel.
    pub instance: String,
    /// Where the programs attach; the root of the cgroup v2 hierarchy when absent.
    pub cgroup_root: Option<PathBuf>,
    /// Directory of the policy documents.
    pub policies: PathBuf,
    /// Directory of what must survive a restart; this instance's own.
    pub state: PathBuf,
    /// Directory of the control socket; this instance's own.
    pub runtime: PathBuf,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// SPIFFE trust domain of this node.
    pub trust_domain: TrustDomain,
    /// Name of this node in its own certificate.
    pub node: String,
    /// Who signs certificates.
    pub ca: Ca,
    /// The token with which to join the CA server.
    pub join_token: Option<PathBuf>,
    /// How long certificates of this node's own CA live.
    pub leaf_lifetime: Duration,
    /// How long a session with another node is believed at most; it is renewed at half of that.
    pub session_lifetime: Duration,
    /// The port for other agents; nothing is opened when absent.
    pub listen: Option<SocketAddr>,
    /// Mode of workloads that nothing else gives one.
    pub mode: Mode,
    /// How long connections older than the agent may go on unrecorded.
    pub grace: Duration,
    /// After how long without a datagram a UDP flow has ended.
    pub udp_idle: Duration,
    /// Cgroup directories, from the root of the hierarchy, below which every process must be a workload.
    pub managed: Vec<String>,
    /// Where workloads may live.
    pub mesh: Vec<Cidr>,
    /// Ranges of those whose agent answers elsewhere than at each address itself, and where.
    pub agents: Vec<(Cidr, SocketAddr)>,
    /// Devices that lead to other nodes, beside those that routes show.
    pub uplinks: Vec<String>,
    /// Capacity of the connection tables, in entries.
    pub connections: u32,
    /// Bytes of the ring of flow events; a power of two.
    pub flow_ring: u32,
    /// Bytes of the ring of denials; a power of two.
    pub denial_ring: u32,
    /// Bytes that the flows of the past may take; none are kept when absent.
    pub history: Option<u64>,
    /// How long the flows of the past are kept.
    pub history_age: Duration,
    /// Where metrics are served; nowhere when absent.
    pub metrics: Option<SocketAddr>,
    /// How many pairs of workloads get metrics of their own.
    pub metrics_pairs: usize,
    /// The nodes that may read the flows of this one; `*` is all. Nobody unless given: a node may be taken over.
    pub tap_from_nodes: Vec<String>,
    /// The log filter.
    pub log: String,
}

impl Config {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// Whether this node has sessions with others.
    pub fn has_mesh(&self) -> bool {
        self.listen.is_some() || self.ca != Ca::Own
    }

    /// The port on which agents answer.
    pub fn agent_port(&self) -> u16 {
        self.listen.map_or(AGENT_PORT, |address| address.port())
    }

    /// Whether this node has to do with others, so that the devices that lead to them are covered.
    pub fn has_border(&self) -> bool {
        self.listen.is_some() || !self.uplinks.is_empty()
    }

    /// The directory of pinned maps, programs and links: one for each instance and map layout.
    pub fn pins(&self) -> PathBuf {
        self.instance_pins().join(format!("v{LAYOUT}"))
    }

    /// The directory of the pins of every map layout this instance ever had.
    pub fn instance_pins(&self) -> PathBuf {
        self.bpffs.join("waxseal").join(&self.instance)
    }
}

/// A configuration, and where each value came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// One for each of [`KEYS`], in their order.
    pub entries: Vec<Entry>,
}

/// One resolved value, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// One of [`KEYS`].
    pub key: &'static str,
    /// The value as it would be written; escaped.
    pub value: String,
    /// Who gave it.
    pub source: Source,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key that does not exist.
    #[error("{origin}: unknown key `{}`{}; the keys are {}", escape(key), hint(key), key_names())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Where.
        origin: Source,
    },
    /// `--set` without an equals sign.
    #[error("--set {}: write it as key=value", escape(text))]
    NotAnAssignment {
        /// What was given.
        text: String,
    },
    /// A value that means nothing.
    #[error("{origin}: {key}: {problem}")]
    Value {
        /// One of [`KEYS`].
        key: &'static str,
        /// Where it was given.
        origin: Source,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
}

impl Error {
    /// Whether the reader lacks the right to read the file, so that being root would help.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::File(FileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

/// Puts the layers together and parses every value.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Resolved, Error> {
    let layers = layers::collect(inputs)?;
    let instance = layers.value("instance", "default", values::instance)?;
    let own = |base: &str| Path::new(base).join(&instance).display().to_string();
    let ca = layers.value("ca", "own", values::ca)?;
    let mesh = layers.list("mesh", &MESH, values::mesh)?;
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, AGENT_PORT));
    let config = Config {
        cgroup_root: layers.optional("cgroup_root", values::path)?,
        policies: layers.value("policies", "/etc/waxseal/policies", values::path)?,
        state: layers.value("state", &own("/var/lib/waxseal"), values::path)?,
        runtime: layers.value("runtime", &own("/run/waxseal"), values::runtime)?,
        bpffs: layers.value("bpffs", "/sys/fs/bpf", values::path)?,
        trust_domain: layers.value("trust_domain", "cluster.local", values::trust_domain)?,
        node: layers.value("node", &values::host_name(), values::node)?,
        join_token: layers.optional("join_token", values::path)?,
        leaf_lifetime: layers.value("leaf_lifetime", "1h", values::leaf_lifetime)?,
        session_lifetime: layers.value("session_lifetime", "1h", values::session_lifetime)?,
        listen: match layers.optional("listen", values::listen)? {
            Some(given) => given,
            None => (ca != Ca::Own).then_some(everywhere),
        },
        ca,
        mode: layers.value("mode", Mode::Audit.as_str(), values::mode)?,
        grace: layers.value("grace", "10s", values::grace)?,
        udp_idle: layers.value("udp_idle", "2m", values::udp_idle)?,
        managed: layers.list("managed", &[], values::cgroup)?,
        mesh: mesh.iter().map(|(range, _)| *range).collect(),
        agents: mesh.into_iter().filter_map(|(range, agent)| Some((range, agent?))).collect(),
        uplinks: layers.list("uplinks", &[], values::device)?,
        connections: layers.value("connections", "262144", values::connections)?,
        flow_ring: layers.value("flow_ring", "1MiB", values::ring)?,
        denial_ring: layers.value("denial_ring", "512KiB", values::ring)?,
        history: layers.value("history", "256MiB", values::history)?,
        history_age: layers.value("history_age", "168h", values::history_age)?,
        metrics: layers.value("metrics", "127.0.0.1:7462", values::listen)?,
        metrics_pairs: layers.value("metrics_pairs", "0", values::pairs)?,
        tap_from_nodes: layers.list("tap_from_nodes", &[], values::node_or_all)?,
        log: layers.value("log", "info", values::text)?,
        instance,
    };
    let entries = entries(&config, &layers);
    Ok(Resolved { config, entries })
}

fn entries(config: &Config, layers: &layers::Layers) -> Vec<Entry> {
    let Config {
        instance,
        cgroup_root,
        policies,
        state,
        runtime,
        bpffs,
        trust_domain,
        node,
        ca,
        join_token,
        leaf_lifetime,
        session_lifetime,
        listen,
        mode,
        grace,
        udp_idle,
        managed,
        mesh,
        agents,
        uplinks,
        connections,
        flow_ring,
        denial_ring,
        history,
        history_age,
        metrics,
        metrics_pairs,
        tap_from_nodes,
        log,
    } = config;
    let agent = |range: &Cidr| agents.iter().find(|(mapped, _)| mapped == range).map(|(_, agent)| agent);
    let mesh: Vec<String> = mesh
        .iter()
        .map(|range| agent(range).map_or_else(|| range.to_string(), |agent| format!("{range}={agent}")))
        .collect();
    let values: [String; KEYS.len()] = [
        instance.clone(),
        cgroup_root
            .as_deref()
            .map_or_else(|| "(the cgroup2 mount)".to_owned(), |path| path.display().to_string()),
        policies.display().to_string(),
        state.display().to_string(),
        runtime.display().to_string(),
        bpffs.display().to_string(),
        trust_domain.to_string(),
        node.clone(),
        ca.to_string(),
        join_token.as_deref().map_or_else(|| "(none)".to_owned(), |path| path.display().to_string()),
        format!("{leaf_lifetime:?}"),
        format!("{session_lifetime:?}"),
        listen.map_or_else(|| "off".to_owned(), |address| address.to_string()),
        mode.as_str().to_owned(),
        format!("{grace:?}"),
        format!("{udp_idle:?}"),
        managed.join(","),
        mesh.join(","),
        uplinks.join(","),
        connections.to_string(),
        flow_ring.to_string(),
        denial_ring.to_string(),
        history.map_or_else(off, |bytes| bytes.to_string()),
        format!("{}h", history_age.as_secs() / 3600),
        metrics.map_or_else(off, |address| address.to_string()),
        metrics_pairs.to_string(),
        tap_from_nodes.join(","),
        log.clone(),
    ];
    KEYS.into_iter()
        .zip(values)
        .map(|((key, _), value)| Entry {
            key,
            value: escape(&value).into_owned(),
            source: layers.source(key),
        })
        .collect()
}

fn off() -> String {
    "off".to_owned()
}

fn key_names() -> String {
    KEYS.map(|(key, _)| key).join(", ")
}

/// A hint for a slip. A dash or a dot for the underscore is the commonest one.
fn hint(written: &str) -> String {
    let plain = written.replace(['-', '.'], "_");
    let near = nearest(&plain, KEYS.into_iter().map(|(key, _)| key));
    near.map_or_else(String::new, |key| format!(" (did you mean `{key}`?)"))
}

#[cfg(test)]
mod tests;
