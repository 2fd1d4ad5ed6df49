//! How a command ends: a documented number, and a hint on what to type next.

use std::io;
use std::process::ExitCode;

use crate::api::{ClientError, Failure, FailureKind, SocketError};
use crate::node::{self, ErrorKind};
use crate::{config, datapath, pki};

/// Shown below `--help`. The numbers are stable.
pub(super) const CODES: &str = "\
Exit codes:
  0  done
  1  failed while running
  2  wrong usage or invalid input
  3  not permitted; needs root
  4  no agent answers
  5  an agent already runs
  6  the kernel lacks a feature; enforcing is refused";

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Invalid = 2,
    NotPermitted = 3,
    NotReachable = 4,
    AlreadyRunning = 5,
    Unsupported = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// What to type next, for those ends that have a usual cure.
    pub(super) const fn hint(self) -> Option<&'static str> {
        match self {
            Self::Done | Self::Failed | Self::Invalid => None,
            Self::NotPermitted => Some("run it as root: sudo waxseal …"),
            Self::NotReachable => Some(
                "start one with `systemctl start waxseal` or `sudo waxseal agent`, or name another with --instance",
            ),
            Self::AlreadyRunning => Some(
                "`waxseal status` shows it; a second one beside it needs a name of its own: --instance NAME",
            ),
            Self::Unsupported => Some("`waxseal doctor` says what is missing and what to do"),
        }
    }
}

/// An end that a command knows better than [`of`] can guess.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) message: String,
}

/// A reader that went away, as `head` does, is no failure.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // The agent that hangs up is no reader: whatever was asked of it was not done.
    let agent = error.chain().any(<dyn std::error::Error>::is::<ClientError>);
    !agent
        && error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        })
}

/// How a command that failed with this error ends: the outermost cause that says so decides.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(ended) = cause.downcast_ref::<Ended>() {
        return Some(ended.exit);
    }
    if let Some(error) = cause.downcast_ref::<config::Error>() {
        return Some(if error.is_permission_denied() { Exit::NotPermitted } else { Exit::Invalid });
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(of_client(error));
    }
    if let Some(error) = cause.downcast_ref::<pki::AuthorityError>()
        && error.is_invalid_input()
    {
        return Some(Exit::Invalid);
    }
    if let Some(error) = cause.downcast_ref::<node::Error>() {
        return of_node(error);
    }
    if let Some(error) = cause.downcast_ref::<datapath::Error>() {
        return error.is_missing_feature().then_some(Exit::Unsupported);
    }
    if let Some(SocketError::AlreadyRunning { .. }) = cause.downcast_ref() {
        return Some(Exit::AlreadyRunning);
    }
    let error = cause.downcast_ref::<io::Error>()?;
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(Exit::NotPermitted)
}

fn of_node(error: &node::Error) -> Option<Exit> {
    if let node::Error::Socket(SocketError::AlreadyRunning { .. }) = error {
        return Some(Exit::AlreadyRunning);
    }
    match error.kind() {
        ErrorKind::Failed => None,
        ErrorKind::Invalid => Some(Exit::Invalid),
        ErrorKind::NotPermitted => Some(Exit::NotPermitted),
        ErrorKind::Unsupported => Some(Exit::Unsupported),
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::NotReachable { .. } | ClientError::Closed(_) => Exit::NotReachable,
        ClientError::NotPermitted { .. } | ClientError::Impostor { .. } => Exit::NotPermitted,
        ClientError::Garbled(_) => Exit::Failed,
        ClientError::Refused(Failure { kind, .. }) => match kind {
            FailureKind::Invalid => Exit::Invalid,
            FailureKind::NotPermitted => Exit::NotPermitted,
            FailureKind::Unsupported => Exit::Unsupported,
            FailureKind::Busy | FailureKind::Internal => Exit::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code_and_no_other() {
        let exits = [
            Exit::Done,
            Exit::Failed,
            Exit::Invalid,
            Exit::NotPermitted,
            Exit::NotReachable,
            Exit::AlreadyRunning,
            Exit::Unsupported,
        ];
        for exit in exits {
            assert!(CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
        assert_eq!(CODES.lines().count(), exits.len() + 1);
    }

    #[test]
    fn situations_end_as_documented_however_deep_they_lie() {
        let socket = || "/run/x".into();
        let refused = |kind| anyhow::Error::new(ClientError::Refused(Failure::new(kind, "no")));
        for (error, exit) in [
            (
                ClientError::NotReachable { socket: socket(), source: io::ErrorKind::NotFound.into() }.into(),
                Exit::NotReachable,
            ),
            (
                ClientError::NotPermitted {
                    socket: socket(),
                    source: io::ErrorKind::PermissionDenied.into(),
                }
                .into(),
                Exit::NotPermitted,
            ),
            (refused(FailureKind::Invalid), Exit::Invalid),
            (refused(FailureKind::Unsupported), Exit::Unsupported),
            (SocketError::AlreadyRunning { socket: socket() }.into(), Exit::AlreadyRunning),
            (config::Error::NotAnAssignment { text: "x".into() }.into(), Exit::Invalid),
            (io::Error::from(io::ErrorKind::PermissionDenied).into(), Exit::NotPermitted),
            (anyhow::anyhow!("else"), Exit::Failed),
        ] {
            let message = error.to_string();
            assert_eq!(of(&error.context("while doing")), exit, "{message}");
        }
    }

    #[test]
    fn a_closed_pipe_is_recognised_below_other_words() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("cannot write")));
    }

    #[test]
    fn an_agent_that_cannot_enforce_ends_with_its_own_code_and_says_why() {
        let without_programs = datapath::Error::NoObject;
        let without_types =
            datapath::btf::Error::NoField { structure: "sock".to_owned(), path: "x".to_owned() };
        for (error, word) in [(without_programs, "no kernel programs"), (without_types.into(), "struct sock")]
        {
            let error = anyhow::Error::from(node::Error::Datapath(error));
            assert_eq!(of(&error), Exit::Unsupported, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
