//! The stage of the demo: two nodes and a router first, then the services on them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::programs::Programs;
use crate::stage::{Agent, Cgroup, Netns, Router, Service, port_is_open, wait};

/// The web server's address, on node b.
pub(super) const WEB: &str = "10.77.2.2";
/// The cache's address, on node a.
pub(super) const CACHE: &str = "10.77.1.2";
/// The authority's address, at the router.
pub(super) const AUTHORITY: &str = "10.77.1.1";

/// A node: its network namespace and its part of the cgroup tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) netns: Netns,
    pub(super) cgroup: Cgroup,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// On node a.
    Client,
    /// On node b.
    Batch,
}

/// All of it. Services come first: they are dropped before the places they live in.
#[derive(Debug)]
pub(super) struct Shop {
    services: Vec<Service>,
    script: Option<(PathBuf, PathBuf)>,
    client: Cgroup,
    cache: Cgroup,
    web: Cgroup,
    batch: Cgroup,
    pub(super) a: Place,
    pub(super) b: Place,
    router: Router,
    _parent: Cgroup,
}

impl Shop {
    /// Makes the nodes and lays the wires.
    pub(super) fn build() -> anyhow::Result<Self> {
        let parent = Cgroup::root("waxseal-demo")?;
        let router = Router::new("waxseal-demo-router")?;
        let place = |name: &str, number: u8| {
            let netns = Netns::new(&format!("waxseal-demo-{name}"))?;
            router.wire(&netns, number)?;
            anyhow::Ok(Place { netns, cgroup: parent.child(name)? })
        };
        let (a, b) = (place("a", 1)?, place("b", 2)?);
        Ok(Self {
            services: Vec::new(),
            script: None,
            client: a.cgroup.child("client")?,
            cache: a.cgroup.child("cache")?,
            web: b.cgroup.child("web")?,
            batch: b.cgroup.child("batch")?,
            a,
            b,
            router,
            _parent: parent,
        })
    }

    /// Where the authority serves.
    pub(super) fn router(&self) -> &Netns {
        self.router.home()
    }

    /// Starts redis on node a and nginx on node b, and waits until they listen.
    pub(super) fn open(&mut self, [a, b]: [&Agent; 2], programs: &Programs) -> anyhow::Result<()> {
        let home = b.file("nginx");
        fs::create_dir(&home).with_context(|| format!("create {}", home.display()))?;
        let settings = include_str!("../../demo/nginx.conf")
            .replace("@HOME@", &home.display().to_string())
            .replace("@MODULES@", &programs.nginx_modules.display().to_string());
        b.write("nginx/nginx.conf", &settings)?;
        a.write("client.py", include_str!("../../demo/client.py"))?;
        self.script = Some((programs.python.clone(), a.file("client.py")));

        let mut redis = Service::command(&self.cache, Some(&self.a.netns), &programs.redis);
        programs.with_libraries(&mut redis);
        redis
            .args(["--bind", CACHE, "--port", "6379", "--save", "", "--protected-mode", "no", "--dir"])
            .arg(&home);
        self.serve("redis", redis, a, &[(CACHE, 6379)])?;

        let mut nginx = Service::command(&self.web, Some(&self.b.netns), &programs.nginx);
        programs.with_libraries(&mut nginx);
        nginx.args(["-e", "stderr", "-p"]).arg(&home).arg("-c").arg(home.join("nginx.conf"));
        self.serve("nginx", nginx, b, &[(WEB, 8080), (WEB, 8081), (WEB, 6380)])
    }

    fn serve(
        &mut self,
        name: &str,
        command: std::process::Command,
        agent: &Agent,
        ports: &[(&str, u16)],
    ) -> anyhow::Result<()> {
        let log = agent.file(&format!("logs/{name}.log"));
        let mut service = Service::start(name, command, &log)?;
        let netns = if name == "redis" { &self.a.netns } else { &self.b.netns };
        let up = wait(&format!("{name} to listen"), Duration::from_secs(20), || {
            service.still_runs()?;
            let open = ports.iter().all(|(address, port)| {
                format!("{address}:{port}")
                    .parse::<SocketAddr>()
                    .is_ok_and(|at| port_is_open(Some(netns), at))
            });
            Ok(open.then_some(()))
        });
        self.services.push(service);
        up.with_context(|| fs::read_to_string(&log).unwrap_or_default())
    }

    /// Asks one question, and returns the line that the caller prints.
    pub(super) fn ask(&self, caller: Caller, question: [&str; 3]) -> anyhow::Result<String> {
        let Some((python, script)) = &self.script else { bail!("the shop is not open") };
        let (cgroup, netns) = match caller {
            Caller::Client => (&self.client, &self.a.netns),
            Caller::Batch => (&self.batch, &self.b.netns),
        };
        let mut command = Service::command(cgroup, Some(netns), python);
        let output = command.arg(script).args(question).output().context("start the caller")?;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if line.is_empty() {
            bail!("the caller said nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(line)
    }
}
