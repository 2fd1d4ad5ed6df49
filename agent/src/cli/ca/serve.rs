//! `waxseal ca serve`.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Place;
use crate::cli::exit::Exit;
use crate::cli::{Common, agent};
use crate::pki::{Authority, CA_PORT, CaServer, Limits};

#[derive(Debug, Args)]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    place: Place,
    /// Where to listen; every address of the machine unless given
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Log filter: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

pub(super) fn run(common: &Common, arguments: &Serve) -> anyhow::Result<Exit> {
    let Serve { place, listen, log } = arguments;
    let filter = match log {
        Some(filter) => filter.clone(),
        None => common.configuration()?.log,
    };
    agent::log(&filter)?;
    agent::harden().context("cannot protect the CA's own memory and files")?;
    let authority = Arc::new(place.open(common, None)?);
    let address = listen.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, CA_PORT)));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(address, authority))?;
    Ok(Exit::Done)
}

async fn serve(address: SocketAddr, authority: Arc<Authority>) -> anyhow::Result<()> {
    let domain = authority.trust_domain();
    let server = CaServer::bind(address, authority, Limits::default()).await?;
    let address = server.address()?;
    tracing::info!(%address, %domain, "the CA answers");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = server.serve() => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("the CA stops; certificates that were issued hold until they expire");
    Ok(())
}
