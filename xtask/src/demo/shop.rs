//! The stage of the demo: places first, then the services in them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::programs::Programs;
use crate::stage::{Agent, Cgroup, Netns, Service, Switch, port_is_open, wait};

/// The web server's address.
pub(super) const WEB: &str = "10.77.0.10";
/// The cache's address.
pub(super) const CACHE: &str = "10.77.0.20";

/// Where one service lives.
#[derive(Debug)]
struct Room {
    cgroup: Cgroup,
    netns: Netns,
}

/// All of it. Services come first: they are dropped before the rooms they live in.
#[derive(Debug)]
pub(super) struct Shop {
    services: Vec<Service>,
    client_script: Option<(PathBuf, PathBuf)>,
    web: Room,
    cache: Room,
    client: Room,
    _switch: Switch,
    _parent: Cgroup,
}

impl Shop {
    /// Makes the rooms and lays the wires.
    pub(super) fn build() -> anyhow::Result<Self> {
        let parent = Cgroup::root("waxseal-demo")?;
        let switch = Switch::new("waxseal-demo-hub")?;
        let room = |name: &str, address: &str| {
            let cgroup = parent.child(name)?;
            let netns = Netns::new(&format!("waxseal-demo-{name}"))?;
            switch.wire(&netns, name, &format!("{address}/24"))?;
            anyhow::Ok(Room { cgroup, netns })
        };
        let (web, cache, client) = (room("web", WEB)?, room("cache", CACHE)?, room("client", "10.77.0.30")?);
        Ok(Self {
            services: Vec::new(),
            client_script: None,
            web,
            cache,
            client,
            _switch: switch,
            _parent: parent,
        })
    }

    /// Starts nginx and redis and waits until they listen.
    pub(super) fn open(&mut self, agent: &Agent, programs: &Programs) -> anyhow::Result<()> {
        let home = agent.file("nginx");
        fs::create_dir(&home).with_context(|| format!("create {}", home.display()))?;
        let settings = include_str!("../../demo/nginx.conf")
            .replace("@HOME@", &home.display().to_string())
            .replace("@MODULES@", &programs.nginx_modules.display().to_string());
        agent.write("nginx/nginx.conf", &settings)?;
        agent.write("client.py", include_str!("../../demo/client.py"))?;
        self.client_script = Some((programs.python.clone(), agent.file("client.py")));

        let mut redis = Service::command(&self.cache.cgroup, Some(&self.cache.netns), &programs.redis);
        programs.with_libraries(&mut redis);
        redis
            .args(["--bind", CACHE, "--port", "6379", "--save", "", "--protected-mode", "no", "--dir"])
            .arg(&home);
        self.serve("redis", redis, agent, &[(CACHE, 6379)])?;

        let mut nginx = Service::command(&self.web.cgroup, Some(&self.web.netns), &programs.nginx);
        programs.with_libraries(&mut nginx);
        nginx.args(["-e", "stderr", "-p"]).arg(&home).arg("-c").arg(home.join("nginx.conf"));
        self.serve("nginx", nginx, agent, &[(WEB, 8080), (WEB, 6380)])
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
        let netns = if name == "redis" { &self.cache.netns } else { &self.web.netns };
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

    /// Asks one question as the client, and returns the line it prints.
    pub(super) fn client(&self, question: [&str; 3]) -> anyhow::Result<String> {
        let Some((python, script)) = &self.client_script else { bail!("the shop is not open") };
        let mut command = Service::command(&self.client.cgroup, Some(&self.client.netns), python);
        let output = command.arg(script).args(question).output().context("start the client")?;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if line.is_empty() {
            bail!("the client said nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(line)
    }
}
