//! Which nodes' agents a tap asks.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::thread::sleep;

use super::follow::{RETRY, is_away};
use crate::api::{Client, ClientError, Request, SessionsReport, StatusReport};
use crate::cli::exit::{Ended, Exit};
use crate::config::{AGENT_PORT, Config};
use crate::flows::{Pattern, PatternError};

/// How many nodes can be read at once.
const MOST: usize = 32;

/// One word of `--node`.
#[derive(Clone, Debug)]
pub(super) struct NodeTerm {
    pub(super) pattern: Pattern,
    /// Where its agent answers.
    agent: Option<SocketAddr>,
}

/// Why a word is no node.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeTermError {
    #[error(transparent)]
    Name(#[from] PatternError),
    #[error("`{}` is no address; use NAME=ADDRESS or NAME=ADDRESS:PORT", crate::escape::escape(.0))]
    Address(String),
    #[error("a name with an address is one node's, without *")]
    Star,
}

impl FromStr for NodeTerm {
    type Err = NodeTermError;

    fn from_str(text: &str) -> Result<Self, NodeTermError> {
        let Some((name, address)) = text.split_once('=') else {
            return Ok(Self { pattern: text.parse()?, agent: None });
        };
        if name.contains('*') {
            return Err(NodeTermError::Star);
        }
        let bare = || address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, AGENT_PORT));
        let agent = address.parse().or_else(|_no_port| bare());
        let agent = agent.map_err(|_error| NodeTermError::Address(address.to_owned()))?;
        Ok(Self { pattern: name.parse()?, agent: Some(agent) })
    }
}

/// Which nodes are meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Others<'a> {
    /// All that this one has met.
    All,
    /// These.
    Named(&'a [NodeTerm]),
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) agent: Option<SocketAddr>,
}

/// The nodes to ask beside this one; none when this node keeps to itself.
pub(super) fn resolve(others: Others<'_>, config: &Config, wait: bool) -> anyhow::Result<Vec<Other>> {
    if matches!(others, Others::Named([])) {
        return Ok(Vec::new());
    }
    let sessions: SessionsReport = ask(config, wait, &Request::Sessions)?;
    if !sessions.enabled {
        return Ok(Vec::new());
    }
    let status: StatusReport = ask(config, wait, &Request::Status)?;
    let met: Vec<&str> = sessions.links.iter().map(|link| link.peer.as_str()).collect();
    let chosen = choose(others, &status.node, &met);
    if chosen.len() > MOST {
        let message = format!(
            "{} nodes are meant, and {MOST} can be read at once; name some with --node",
            chosen.len()
        );
        return Err(Ended { exit: Exit::Invalid, message }.into());
    }
    Ok(chosen)
}

/// A name without `*` counts also where no such node was met: it is told of as out of reach.
fn choose(others: Others<'_>, own: &str, met: &[&str]) -> Vec<Other> {
    let known = |name: &str| Other { name: name.to_owned(), agent: None };
    let mut chosen: Vec<Other> = match others {
        Others::All => met.iter().map(|name| known(name)).collect(),
        Others::Named(terms) => terms
            .iter()
            .flat_map(|term| {
                let text = term.pattern.to_string();
                if text.contains('*') {
                    return met
                        .iter()
                        .filter(|name| term.pattern.fits(name))
                        .map(|name| known(name))
                        .collect();
                }
                vec![Other { name: text, agent: term.agent }]
            })
            .collect(),
    };
    chosen.retain(|other| other.name != own);
    chosen.sort_by(|a, b| (&a.name, a.agent.is_none()).cmp(&(&b.name, b.agent.is_none())));
    chosen.dedup_by(|a, b| a.name == b.name);
    chosen
}

fn ask<T: serde::de::DeserializeOwned>(
    config: &Config,
    wait: bool,
    request: &Request,
) -> Result<T, ClientError> {
    loop {
        match Client::connect(&config.socket()).and_then(|client| client.ask(request)) {
            Err(error) if wait && is_away(&error) => sleep(RETRY),
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_that_are_meant_are_asked_once_each_and_never_the_own_one() {
        let met = ["alpha", "beta", "gamma"];
        let names = |others: Others<'_>| -> Vec<String> {
            choose(others, "own", &met).into_iter().map(|other| other.name).collect()
        };
        assert_eq!(names(Others::All), met);
        for (words, chosen) in [
            ("beta", vec!["beta"]),
            ("own", vec![]),
            ("*a,beta", vec!["alpha", "beta", "gamma"]),
            ("be*,gamma,gamma", vec!["beta", "gamma"]),
            ("nobody", vec!["nobody"]),
            ("no*", vec![]),
        ] {
            let terms: Vec<NodeTerm> = words.split(',').map(|word| word.parse().unwrap()).collect();
            assert_eq!(names(Others::Named(&terms)), chosen, "{words}");
        }
        let terms: Vec<NodeTerm> =
            ["beta", "beta=10.0.0.2", "x=[fd00::1]:99"].map(|word| word.parse().unwrap()).into();
        let agents: Vec<_> =
            choose(Others::Named(&terms), "own", &met).into_iter().map(|other| other.agent).collect();
        assert_eq!(agents, [Some("10.0.0.2:7461".parse().unwrap()), Some("[fd00::1]:99".parse().unwrap())]);
    }

    #[test]
    fn what_is_no_node_is_refused() {
        for (word, message) in [
            ("", "is no name"),
            ("a=", "`` is no address"),
            ("a=b", "`b` is no address"),
            ("a*=10.0.0.1", "without *"),
            ("=10.0.0.1", "is no name"),
        ] {
            let error = word.parse::<NodeTerm>().unwrap_err().to_string();
            assert!(error.contains(message), "{word}: {error}");
        }
    }
}
