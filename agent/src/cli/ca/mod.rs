//! `waxseal ca`: the CA's own commands. All of them work on its directory, also while `waxseal ca serve` runs.

mod change;
mod make;
mod serve;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Common;
use super::exit::Exit;
use crate::config;
use crate::pki::Authority;

pub(super) const AFTER_HELP: &str = "\
A host alone needs none of these: its agent makes a CA of its own below its state directory.
For several nodes: `waxseal ca init` and `waxseal ca serve` on one machine; then for each node `waxseal ca token --node NAME
--allow '/ns/shop/sa/*'` there, and the token in a file that the node's `join_token` names, with `ca` set to the address.
Changes reach connected nodes within a second.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a root and an intermediate
    Init(make::Init),
    /// Take over a CA whose certificates and keys are files in PEM
    Import(make::Import),
    /// Let nodes join, and sign for them
    Serve(serve::Serve),
    /// Show certificates, nodes and revocations
    Show(show::Show),
    /// Register a node and make the token with which it joins once
    Token(change::Token),
    /// Let a node have more or fewer IDs, or lift the revocation of an ID
    Allow(change::Allow),
    /// Make the next intermediate; the old one stays good until it expires
    RotateIntermediate(change::Rotate),
    /// Take back certificates
    Revoke(change::Revoke),
}

pub(super) fn run(common: &Common, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Init(arguments) => make::init(common, &arguments),
        Command::Import(arguments) => make::import(common, &arguments),
        Command::Serve(arguments) => serve::run(common, &arguments),
        Command::Show(arguments) => show::run(common, &arguments),
        Command::Token(arguments) => change::token(common, &arguments),
        Command::Allow(arguments) => change::allow(common, &arguments),
        Command::RotateIntermediate(arguments) => change::rotate(common, &arguments),
        Command::Revoke(arguments) => change::revoke(common, &arguments),
    }
}

/// Where the CA is.
#[derive(Clone, Debug, Args)]
struct Place {
    /// The CA's directory; `ca` below the agent's state directory unless given
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Place {
    fn directory(&self, common: &Common) -> anyhow::Result<PathBuf> {
        Ok(match &self.dir {
            Some(directory) => std::path::absolute(directory)?,
            None => common.configuration()?.state.join("ca"),
        })
    }

    fn open(&self, common: &Common, root_key: Option<&PathBuf>) -> anyhow::Result<Authority> {
        let root_key = root_key.map(std::path::absolute).transpose()?;
        Ok(Authority::open(&self.directory(common)?, root_key.as_deref())?)
    }
}

/// A span as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "write it like 90s, 10m, 1h or 7d".to_owned())
}

/// Seconds since 1970 as people read them.
fn date(seconds: u64) -> String {
    crate::flows::Time(seconds.saturating_mul(1000)).to_string()
}
