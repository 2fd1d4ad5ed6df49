//! Mutual TLS by proxies on both sides, each configured as its users would: TLS 1.3, certificates of one authority that
//! both sides ask for and verify, sessions resumed where the program does so by itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::root;

use crate::ends::PASSED;

/// How far above the port in the clear the port of the other proxy is.
const SEALED: u16 = 1000;
/// The name in the certificates.
const NAME: &str = "bench.internal";

/// A program that can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    Haproxy,
    Nginx,
    Stunnel,
}

impl Product {
    pub(crate) const ALL: [Self; 3] = [Self::Haproxy, Self::Nginx, Self::Stunnel];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy pair",
            Self::Nginx => "nginx pair",
            Self::Stunnel => "stunnel pair",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Haproxy => "usr/sbin/haproxy",
            Self::Nginx => "usr/sbin/nginx",
            Self::Stunnel => "usr/bin/stunnel4",
        }
    }

    /// The files that it must have, below a root.
    fn is_in(self, root: &Path) -> bool {
        let module = self != Self::Nginx || modules(root).is_some();
        module && root.join(self.program()).is_file()
    }
}

/// A directory with unpacked packages, or the machine itself.
#[derive(Clone, Debug)]
pub(crate) struct Programs(pub(crate) PathBuf);

impl Programs {
    /// Where that program is.
    fn root_of(&self, product: Product) -> Option<PathBuf> {
        [PathBuf::from("/"), self.0.clone()].into_iter().find(|root| product.is_in(root))
    }

    pub(crate) fn have(&self, product: Product) -> bool {
        self.root_of(product).is_some()
    }

    /// What it calls itself.
    pub(crate) fn version(&self, product: Product) -> Option<String> {
        let root = self.root_of(product)?;
        let mut command = Command::new(root.join(product.program()));
        with_libraries(&mut command, &root);
        let output =
            command.arg(if product == Product::Stunnel { "-version" } else { "-v" }).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .find(|line| line.contains(|c: char| c.is_ascii_digit()))
            .map(|line| line.split(" - ").next().unwrap_or(line).trim().chars().take(60).collect())
    }
}

fn modules(root: &Path) -> Option<PathBuf> {
    let directories = ["usr/lib/nginx/modules", "usr/lib64/nginx/modules"].map(|name| root.join(name));
    directories.into_iter().find(|path| path.join("ngx_stream_module.so").is_file())
}

/// Lets an unpacked program find the libraries that came with it.
fn with_libraries(command: &mut Command, root: &Path) {
    let parents = ["usr/lib", "lib"].map(|name| root.join(name));
    let entries = parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    let paths =
        entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    if root != Path::new("/")
        && let Ok(path) = std::env::join_paths(paths)
    {
        command.env("LD_LIBRARY_PATH", path);
    }
}

/// Both proxies of one product. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Pair {
    cgroup: Cgroup,
    files: tempfile::TempDir,
}

impl Pair {
    /// Starts a proxy beside the client and one beside the server, which listens at `there`.
    pub(crate) fn start(
        programs: &Programs,
        product: Product,
        [near, far]: [&Netns; 2],
        there: &str,
    ) -> Result<Self> {
        let root = programs.root_of(product).context("it is not installed")?;
        let files = tempfile::Builder::new().prefix("proxies-").tempdir().context("a directory")?;
        certificates(files.path())?;
        let pair =
            Self { cgroup: Cgroup::root(product.program().rsplit('/').next().unwrap_or_default()), files };
        for (side, netns) in [(Side::Near, near), (Side::Far, far)] {
            pair.launch(&root, product, side, netns, there)?;
        }
        Ok(pair)
    }

    fn launch(&self, root: &Path, product: Product, side: Side, netns: &Netns, there: &str) -> Result<()> {
        let home = self.files.path();
        let text = match product {
            Product::Haproxy => haproxy(side, home, there),
            Product::Nginx => nginx(side, home, there, &modules(root).context("nginx has no stream module")?),
            Product::Stunnel => stunnel(side, home, there),
        };
        let file = home.join(format!("{side:?}.conf"));
        fs::write(&file, text)?;
        let log = fs::File::create(home.join(format!("{side:?}.log")))?;
        let net = format!("--net={}", netns.path().display());
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(self.cgroup.path());
        command.args(["nsenter", &net, "--"]).arg(root.join(product.program()));
        match product {
            Product::Haproxy => command.args(["-db", "-f"]).arg(&file),
            Product::Nginx => command.args(["-e", "stderr", "-p"]).arg(home).arg("-c").arg(&file),
            Product::Stunnel => command.arg(&file),
        };
        with_libraries(&mut command, root);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("start a proxy")?;
        self.await_ports(side, netns)
    }

    fn await_ports(&self, side: Side, netns: &Netns) -> Result<()> {
        let net = format!("--net={}", netns.path().display());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let table = root::run("nsenter", &[&net, "cat", "/proc/self/net/tcp"]);
            if PASSED
                .iter()
                .all(|port| table.contains(&format!(":{:04X} 00000000:0000 0A", side.port(*port))))
            {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                let log = fs::read_to_string(self.files.path().join(format!("{side:?}.log")));
                anyhow::bail!("a proxy does not listen: {}", log.unwrap_or_default().trim());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Where its processes live.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

#[derive(Clone, Copy, Debug)]
enum Side {
    /// Beside the client: in the clear from it, TLS to the other.
    Near,
    /// Beside the server.
    Far,
}

impl Side {
    const fn port(self, port: u16) -> u16 {
        match self {
            Self::Near => port,
            Self::Far => port + SEALED,
        }
    }
}

/// An authority and a certificate for each side, as files that all products read.
fn certificates(home: &Path) -> Result<()> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(rcgen::DnType::CommonName, "bench root");
    let root_key = KeyPair::generate()?;
    fs::write(home.join("ca.pem"), root.self_signed(&root_key)?.pem())?;
    let issuer = Issuer::new(root, root_key);
    for side in [Side::Near, Side::Far] {
        let mut leaf = CertificateParams::new(vec![NAME.to_owned()])?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, format!("{side:?}"));
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        fs::write(home.join(format!("{side:?}.crt")), &certificate)?;
        fs::write(home.join(format!("{side:?}.key")), key.serialize_pem())?;
        fs::write(home.join(format!("{side:?}.pem")), certificate + &key.serialize_pem())?;
    }
    Ok(())
}

fn haproxy(side: Side, home: &Path, there: &str) -> String {
    let home = home.display();
    let mut text = "global\n  maxconn 8192\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  ssl-default-server-options ssl-min-ver TLSv1.3\n\
                    defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
        .to_owned();
    for port in PASSED {
        let sealed = Side::Far.port(port);
        let tls = format!("ssl crt {home}/{side:?}.pem ca-file {home}/ca.pem verify required");
        let (bind, server) = match side {
            Side::Near => (format!("127.0.0.1:{port}"), format!("{there}:{sealed} {tls} verifyhost {NAME}")),
            Side::Far => (format!("{there}:{sealed} {tls}"), format!("127.0.0.1:{port}")),
        };
        let _ = write!(
            text,
            "frontend in{port}\n  bind {bind}\n  default_backend out{port}\nbackend out{port}\n  server other {server}\n"
        );
    }
    text
}

fn nginx(side: Side, home: &Path, there: &str, modules: &Path) -> String {
    let home = home.display();
    let mut text = format!(
        "load_module {}/ngx_stream_module.so;\ndaemon off;\nuser root;\nworker_processes auto;\npid {home}/{side:?}.pid;\nerror_log stderr;\n\
         events {{ worker_connections 8192; }}\nstream {{\n",
        modules.display()
    );
    for port in PASSED {
        let sealed = Side::Far.port(port);
        let certificate = format!("{home}/{side:?}.crt");
        let key = format!("{home}/{side:?}.key");
        let _ = match side {
            Side::Near => writeln!(
                text,
                " server {{ listen 127.0.0.1:{port}; proxy_pass {there}:{sealed}; proxy_ssl on; proxy_ssl_protocols TLSv1.3; \
                 proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {home}/ca.pem; \
                 proxy_ssl_verify on; proxy_ssl_name {NAME}; }}"
            ),
            Side::Far => writeln!(
                text,
                " server {{ listen {there}:{sealed} ssl; ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}; \
                 ssl_client_certificate {home}/ca.pem; ssl_verify_client on; ssl_session_cache shared:bench{port}:4m; \
                 proxy_pass 127.0.0.1:{port}; }}"
            ),
        };
    }
    text + "}\n"
}

fn stunnel(side: Side, home: &Path, there: &str) -> String {
    let home = home.display();
    let client = matches!(side, Side::Near);
    let mut text = format!(
        "foreground = yes\npid =\ndebug = 3\nsslVersionMin = TLSv1.3\nclient = {}\ncert = {home}/{side:?}.crt\nkey = {home}/{side:?}.key\n\
         CAfile = {home}/ca.pem\nverifyChain = yes\n",
        if client { "yes" } else { "no" }
    );
    for port in PASSED {
        let sealed = Side::Far.port(port);
        let (accept, connect) = if client {
            (format!("127.0.0.1:{port}"), format!("{there}:{sealed}"))
        } else {
            (format!("{there}:{sealed}"), format!("127.0.0.1:{port}"))
        };
        let check = if client { format!("checkHost = {NAME}\n") } else { String::new() };
        let _ = write!(text, "[p{port}]\naccept = {accept}\nconnect = {connect}\n{check}");
    }
    text
}
