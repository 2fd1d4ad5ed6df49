//! `waxseal ca token`, `allow`, `rotate-intermediate` and `revoke`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};
use serde_json::json;

use super::{Place, date, duration};
use crate::cli::exit::{Ended, Exit};
use crate::cli::output::{Format, write, write_json};
use crate::cli::{Common, Output};
use crate::escape::escape;
use crate::pki::{OVERLAP, Revoked, Target};
use crate::spiffe::SpiffeId;

/// The longest that a token can wait for its node.
const TOKEN_LIMIT: Duration = Duration::from_hours(7 * 24);

#[derive(Debug, Args)]
pub(in crate::cli) struct Token {
    #[command(flatten)]
    place: Place,
    /// The node's name, as its `node` says; its host name unless configured
    #[arg(long, value_name = "NAME")]
    node: String,
    /// IDs that it may have: paths like /ns/shop/sa/* (one segment) or /ns/shop/** (any), beside those it has
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    allow: Vec<String>,
    /// How long the token waits for its node, at most 7d
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = duration)]
    life: Duration,
    #[command(flatten)]
    output: Output,
}

pub(super) fn token(common: &Common, arguments: &Token) -> anyhow::Result<Exit> {
    let Token { place, node, allow, life, output } = arguments;
    if life.is_zero() || *life > TOKEN_LIMIT {
        let message = "a token waits between 1s and 7d".to_owned();
        return Err(Ended { exit: Exit::Invalid, message }.into());
    }
    let now = SystemTime::now();
    let token = place.open(common, None)?.token(node, allow, *life, now)?;
    let text = token.text();
    match output.output {
        Format::Json => {
            let until = crate::pki::unix_seconds(now + *life);
            write_json(&json!({ "node": node, "token": &**text, "id": token.id(), "not_after": until }))?;
        }
        // Alone on its line, to be sent into a file.
        Format::Table => write(&format!("{}\n", &**text))?,
    }
    Ok(Exit::Done)
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("who").required(true).args(["node", "id"])))]
pub(in crate::cli) struct Allow {
    #[command(flatten)]
    place: Place,
    /// The node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Patterns of IDs that it may have from now on too
    #[arg(value_name = "PATTERN", requires = "node")]
    add: Vec<String>,
    /// Patterns that it has and loses; what was issued is not revoked
    #[arg(long, value_name = "PATTERN", requires = "node")]
    remove: Vec<String>,
    /// An ID that was revoked and may be issued again
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with = "node")]
    id: Option<SpiffeId>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn allow(common: &Common, arguments: &Allow) -> anyhow::Result<Exit> {
    let Allow { place, node, add, remove, id, output } = arguments;
    let authority = place.open(common, None)?;
    match (node, id) {
        (_, Some(id)) => {
            let was = authority.lift(id)?;
            match output.output {
                Format::Json => write_json(&json!({ "id": id, "was_revoked": was }))?,
                Format::Table if was => write(&format!("{id} may be issued again\n"))?,
                Format::Table => write(&format!("{id} was not revoked\n"))?,
            }
        }
        (Some(node), None) => {
            let has = authority.allow(node, add, remove)?;
            match output.output {
                Format::Json => write_json(&json!({ "node": node, "allow": has }))?,
                Format::Table => write(&format!("{}: {}\n", escape(node), escape(&has.join(" "))))?,
            }
        }
        (None, None) => {}
    }
    Ok(Exit::Done)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rotate {
    #[command(flatten)]
    place: Place,
    /// The root's key, when it was taken elsewhere
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// When the new one begins to sign; nodes must have been told of it before
    #[arg(long, value_name = "SPAN", value_parser = duration)]
    after: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn rotate(common: &Common, arguments: &Rotate) -> anyhow::Result<Exit> {
    let Rotate { place, root_key, after, output } = arguments;
    let authority = place.open(common, root_key.as_ref())?;
    let rotated = authority.rotate(after.unwrap_or(OVERLAP), SystemTime::now())?;
    match output.output {
        Format::Json => write_json(&rotated)?,
        Format::Table => write(&format!(
            "intermediate {} signs from {} until {}\n",
            rotated.serial,
            date(rotated.active_from),
            date(rotated.not_after)
        ))?,
    }
    Ok(Exit::Done)
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["id", "node", "intermediate", "serial"])))]
pub(in crate::cli) struct Revoke {
    #[command(flatten)]
    place: Place,
    /// Every certificate of this ID; it is not issued again either
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<SpiffeId>,
    /// A node, with everything that was issued to it
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// An intermediate by serial number, or current, current-1 and so on; needs the root's key
    #[arg(long, value_name = "SERIAL")]
    intermediate: Option<String>,
    /// One certificate by serial number
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
    /// The root's key, when it was taken elsewhere
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Revoke {
    fn target(&self) -> Option<Target> {
        let id = self.id.clone().map(Target::Id);
        let node = || self.node.clone().map(Target::Node);
        let intermediate = || self.intermediate.clone().map(Target::Intermediate);
        let serial = || self.serial.clone().map(Target::Serial);
        id.or_else(node).or_else(intermediate).or_else(serial)
    }
}

pub(super) fn revoke(common: &Common, arguments: &Revoke) -> anyhow::Result<Exit> {
    let Some(target) = arguments.target() else { return Ok(Exit::Invalid) };
    let authority = arguments.place.open(common, arguments.root_key.as_ref())?;
    let revoked = authority.revoke(&target, SystemTime::now())?;
    match arguments.output.output {
        Format::Json => write_json(&revoked)?,
        Format::Table => write(&told(&revoked))?,
    }
    Ok(Exit::Done)
}

fn told(revoked: &Revoked) -> String {
    let Revoked { leaves, intermediates, replacement } = revoked;
    let mut out = String::new();
    for serial in intermediates {
        let _infallible = writeln!(out, "revoked intermediate {serial}");
    }
    for serial in leaves {
        let _infallible = writeln!(out, "revoked certificate {serial}");
    }
    if let Some(serial) = replacement {
        let _infallible = writeln!(out, "intermediate {serial} signs in its place");
    }
    if out.is_empty() {
        out.push_str("no certificate of it was valid; none will be issued\n");
    }
    out
}
