//! Two small services that talk to each other, for a host on which nothing has a cgroup of its own (a container, a
//! hybrid machine without systemd). Without them the tap would stay empty, and show nothing.

use std::path::Path;
use std::time::Duration;

use crate::place::is_program;
use crate::stage::{Agent, Cgroup, Service, port_is_open, wait};

const PORT: u16 = 18_077;

/// The rooms of both, before they start.
#[derive(Debug)]
pub(super) struct Pair {
    server: Cgroup,
    client: Cgroup,
    parent: Cgroup,
}

/// Both, running. Services are dropped before their rooms.
#[derive(Debug)]
pub(super) struct Running {
    _services: Vec<Service>,
    _rooms: Pair,
}

impl Pair {
    /// Makes the rooms and writes the names.
    pub(super) fn prepare(agent: &Agent) -> anyhow::Result<Self> {
        println!(
            "This host gives its services no cgroups, so none can be told from another. Two small examples are started:"
        );
        println!("  {:<32} /waxseal-up/greeter", "example/greeter");
        println!("  {:<32} /waxseal-up/visitor", "example/visitor");
        agent.write("policies/pair.yaml", include_str!("../../demo/pair.yaml"))?;
        agent.write("pair.py", include_str!("../../demo/pair.py"))?;
        let parent = Cgroup::root("waxseal-up")?;
        Ok(Self { server: parent.child("greeter")?, client: parent.child("visitor")?, parent })
    }

    /// Starts both.
    pub(super) fn start(self, agent: &Agent) -> anyhow::Result<Running> {
        let Self { server, client, parent } = self;
        let python = Path::new("/usr/bin/python3");
        let mut services = Vec::new();
        if is_program(python) {
            for (role, room) in [("server", &server), ("client", &client)] {
                let mut command = Service::command(room, None, python);
                command.arg(agent.file("pair.py")).args([role, &PORT.to_string()]);
                let mut service = Service::start(role, command, &agent.file(&format!("logs/{role}.log")))?;
                if role == "server" {
                    wait("the example to listen", Duration::from_secs(10), || {
                        service.still_runs()?;
                        Ok(port_is_open(None, ([127, 0, 0, 1], PORT).into()).then_some(()))
                    })?;
                }
                services.push(service);
            }
        } else {
            println!("There is no Python here to run them; `cargo xtask demo` brings its own programs.");
        }
        Ok(Running { _services: services, _rooms: Self { server, client, parent } })
    }
}
