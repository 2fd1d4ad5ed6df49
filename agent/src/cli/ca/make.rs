//! `waxseal ca init` and `import`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::show::{Report, render};
use super::{Place, duration};
use crate::cli::exit::Exit;
use crate::cli::output::{Format, write, write_json};
use crate::cli::{Common, Output};
use crate::pki::{self, Authority, Lifetimes, Setup};
use crate::spiffe::TrustDomain;

#[derive(Debug, Args)]
pub(in crate::cli) struct Init {
    #[command(flatten)]
    place: Place,
    /// The trust domain it speaks for; the configured one unless given
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// Write the root's key here, to be taken elsewhere; else beside the other files
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// How long the root lives
    #[arg(long, value_name = "SPAN", default_value = "3650d", value_parser = duration)]
    root_lifetime: Duration,
    #[command(flatten)]
    lives: Lives,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Lives {
    /// How long intermediates live
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = duration)]
    intermediate_lifetime: Duration,
    /// How long certificates of nodes and workloads live
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = duration)]
    leaf_lifetime: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    place: Place,
    /// The trust domain it speaks for; the configured one unless given
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// The roots that peers shall believe, the one that signed the intermediate first
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The root's key; without it intermediates can be neither made nor revoked here
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// The intermediate that signs, and what stands between it and the root
    #[arg(long, value_name = "FILE")]
    intermediate: PathBuf,
    /// The intermediate's key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    lives: Lives,
    #[command(flatten)]
    output: Output,
}

pub(super) fn init(common: &Common, arguments: &Init) -> anyhow::Result<Exit> {
    let Init { place, trust_domain, root_key, root_lifetime, lives, output } = arguments;
    let setup = Setup {
        trust_domain: domain(common, trust_domain.as_ref())?,
        root_key: root_key.as_ref().map(std::path::absolute).transpose()?,
        lifetimes: lives.lifetimes(*root_lifetime),
    };
    let authority = Authority::create(&place.directory(common)?, &setup, SystemTime::now())?;
    tell(&authority, *output)
}

pub(super) fn import(common: &Common, arguments: &Import) -> anyhow::Result<Exit> {
    let Import { place, trust_domain, root, root_key, intermediate, key, lives, output } = arguments;
    let import = pki::Import {
        trust_domain: domain(common, trust_domain.as_ref())?,
        roots: root.clone(),
        root_key: root_key.clone(),
        intermediate: intermediate.clone(),
        key: key.clone(),
        lifetimes: lives.lifetimes(Lifetimes::default().root),
    };
    let authority = Authority::import(&place.directory(common)?, &import, SystemTime::now())?;
    tell(&authority, *output)
}

impl Lives {
    fn lifetimes(&self, root: Duration) -> Lifetimes {
        let Self { intermediate_lifetime, leaf_lifetime } = *self;
        Lifetimes { root, intermediate: intermediate_lifetime, leaf: leaf_lifetime }
    }
}

fn domain(common: &Common, given: Option<&TrustDomain>) -> anyhow::Result<TrustDomain> {
    Ok(match given {
        Some(domain) => domain.clone(),
        None => common.configuration()?.trust_domain,
    })
}

fn tell(authority: &Authority, Output { output }: Output) -> anyhow::Result<Exit> {
    let report = Report::of(authority)?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&render(&report))?,
    }
    Ok(Exit::Done)
}
