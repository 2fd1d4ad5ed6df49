//! `waxseal completions` and `waxseal man`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::exit::Exit;
use super::output::write;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write the pages of all commands into this directory instead
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions) -> anyhow::Result<Exit> {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "waxseal", &mut out);
    write(&String::from_utf8(out)?)?;
    Ok(Exit::Done)
}

pub(super) fn man(arguments: &Man) -> anyhow::Result<Exit> {
    if let Some(directory) = &arguments.directory {
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write into {}", directory.display()))?;
        return Ok(Exit::Done);
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut out)?;
    write(&String::from_utf8(out)?)?;
    Ok(Exit::Done)
}
