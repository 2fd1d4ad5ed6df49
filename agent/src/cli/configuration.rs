//! `waxseal config`.

use std::fmt::Write as _;

use serde_json::json;

use super::Common;
use super::exit::Exit;
use super::output::{Format, Table, write, write_json};
use crate::config::{KEYS, Resolved};

/// What each key means, below `--help`.
pub(super) fn after_help() -> String {
    let mut text =
        "Keys, the same in the file, with --set and as WAXSEAL_KEY in the environment:\n".to_owned();
    for (key, meaning) in KEYS {
        let _infallible = writeln!(text, "  {key:<13} {meaning}");
    }
    text
}

pub(super) fn run(common: &Common, output: Format) -> anyhow::Result<Exit> {
    let resolved = common.resolve(&[])?;
    match output {
        Format::Json => {
            let Resolved { config, entries } = &resolved;
            write_json(&json!({ "values": entries, "socket": config.socket(), "pins": config.pins() }))?;
        }
        Format::Table => write(&table(&resolved))?,
    }
    Ok(Exit::Done)
}

fn table(resolved: &Resolved) -> String {
    let mut table = Table::new(["KEY", "VALUE", "FROM"]);
    for entry in &resolved.entries {
        table.row([entry.key.into(), entry.value.clone().into(), entry.source.to_string().into()]);
    }
    let derived = |path: std::path::PathBuf| path.display().to_string().into();
    table.row(["(socket)".into(), derived(resolved.config.socket()), "runtime".into()]);
    table.row(["(pins)".into(), derived(resolved.config.pins()), "bpffs, instance".into()]);
    table.render()
}
