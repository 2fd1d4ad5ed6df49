//! `waxseal agent` and `waxseal uninstall`.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::exit::{Ended, Exit};
use super::output::{Format, write, write_json};
use super::{Common, connect};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Mode of workloads that nothing else gives one: permissive, audit or enforce
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Directory of the policy documents
    #[arg(long, value_name = "DIRECTORY")]
    policies: Option<PathBuf>,
    /// Attach to this cgroup v2 directory instead of the whole hierarchy
    #[arg(long, value_name = "DIRECTORY")]
    cgroup_root: Option<PathBuf>,
    /// Log filter: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Arguments {
    fn flags(&self) -> Vec<(&'static str, String)> {
        let Self { mode, policies, cgroup_root, log } = self;
        let path = |path: &PathBuf| path.display().to_string();
        [
            ("mode", mode.clone()),
            ("policies", policies.as_ref().map(path)),
            ("cgroup_root", cgroup_root.as_ref().map(path)),
            ("log", log.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.resolve(&arguments.flags())?.config;
    log(&config.log)?;
    harden().context("cannot protect the agent's own memory and files")?;
    crate::node::run(config)?;
    Ok(Exit::Done)
}

pub(super) fn log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Ended { exit: Exit::Invalid, message: format!("log: {error}") })?;
    let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
    Ok(())
}

/// The agent will hold keys: its files are its own, it leaves no core dump, and nobody traces it.
pub(super) fn harden() -> nix::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}

pub(super) fn uninstall(common: &Common, output: Format) -> anyhow::Result<Exit> {
    let config = common.configuration()?;
    if connect(&config).is_ok() {
        let message =
            format!("the agent `{}` still runs and would keep using them; stop it first", config.instance);
        return Err(Ended { exit: Exit::AlreadyRunning, message }.into());
    }
    crate::datapath::uninstall(&config)?;
    let pins = config.instance_pins();
    match output {
        Format::Json => write_json(&json!({ "instance": config.instance, "removed": pins }))?,
        Format::Table => write(&format!(
            "removed every program, link and map of `{}` from the kernel ({}); connections are not judged any more\n",
            config.instance,
            pins.display()
        ))?,
    }
    Ok(Exit::Done)
}
