//! How a connection ended, from what the kernel left at the socket that speaks.

use waxseal_common::flow::Kind;

use super::words::Word;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The opener closed first.
    OpenerClosed,
    /// The acceptor closed first.
    AcceptorClosed,
    /// Both closed at once.
    BothClosed,
    /// The opener reset it.
    OpenerReset,
    /// The acceptor reset it.
    AcceptorReset,
    /// The acceptor, or somebody on the way, refused it with a reset.
    Refused,
    /// Nobody answered any more.
    TimedOut,
    /// A router or the own node said that there is no way.
    Unreachable,
    /// The opener gave up before there was an answer.
    GivenUp,
    /// This node ended it: a policy, or somebody with the right to.
    Destroyed,
    /// Another error of the kernel.
    Broken,
    /// Nothing was sent any more: how a UDP flow ends.
    Idle,
}

impl Word for Ended {
    const ALL: &'static [Self] = &[
        Self::OpenerClosed,
        Self::AcceptorClosed,
        Self::BothClosed,
        Self::OpenerReset,
        Self::AcceptorReset,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::GivenUp,
        Self::Destroyed,
        Self::Broken,
        Self::Idle,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::OpenerClosed => "opener-closed",
            Self::AcceptorClosed => "acceptor-closed",
            Self::BothClosed => "both-closed",
            Self::OpenerReset => "opener-reset",
            Self::AcceptorReset => "acceptor-reset",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Unreachable => "unreachable",
            Self::GivenUp => "given-up",
            Self::Destroyed => "destroyed",
            Self::Broken => "broken",
            Self::Idle => "idle",
        }
    }
}

// TCP states from which a socket closes (include/net/tcp_states.h).
const FIN_WAIT_2: u8 = 5;
const TIME_WAIT: u8 = 6;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

impl Ended {
    /// What the error and the last state of a socket say; `None` for a connection that has not ended. `opener` is
    /// whether the socket is the opener's.
    pub(super) fn of(kind: Kind, opener: bool, error: u32, last_state: u8) -> Option<Self> {
        let by = |own: bool, opens: Self, accepts: Self| if own == opener { opens } else { accepts };
        match kind {
            Kind::Opened | Kind::Denied => return None,
            Kind::Failed if error == 0 => return Some(Self::GivenUp),
            Kind::Failed | Kind::Closed => {}
        }
        Some(match error.cast_signed() {
            0 => match last_state {
                FIN_WAIT_2 | TIME_WAIT => by(true, Self::OpenerClosed, Self::AcceptorClosed),
                LAST_ACK => by(false, Self::OpenerClosed, Self::AcceptorClosed),
                CLOSING => Self::BothClosed,
                // From any other state a socket closes at once only with a reset of its own.
                _ => by(true, Self::OpenerReset, Self::AcceptorReset),
            },
            libc::ECONNREFUSED => Self::Refused,
            libc::ECONNRESET | libc::EPIPE => by(false, Self::OpenerReset, Self::AcceptorReset),
            libc::ECONNABORTED => Self::Destroyed,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => Self::Unreachable,
            _ => Self::Broken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_and_the_error_tell_who_ended_it() {
        const ESTABLISHED: u8 = 1;
        const SYN_SENT: u8 = 2;
        for (kind, opener, error, state, ended) in [
            (Kind::Closed, true, 0, FIN_WAIT_2, Some(Ended::OpenerClosed)),
            (Kind::Closed, true, 0, LAST_ACK, Some(Ended::AcceptorClosed)),
            (Kind::Closed, false, 0, FIN_WAIT_2, Some(Ended::AcceptorClosed)),
            (Kind::Closed, false, 0, LAST_ACK, Some(Ended::OpenerClosed)),
            (Kind::Closed, true, 0, CLOSING, Some(Ended::BothClosed)),
            (Kind::Closed, true, 0, ESTABLISHED, Some(Ended::OpenerReset)),
            (Kind::Closed, false, 0, ESTABLISHED, Some(Ended::AcceptorReset)),
            (Kind::Closed, true, libc::ECONNRESET, ESTABLISHED, Some(Ended::AcceptorReset)),
            (Kind::Closed, false, libc::ECONNRESET, ESTABLISHED, Some(Ended::OpenerReset)),
            (Kind::Closed, false, libc::EPIPE, 8, Some(Ended::OpenerReset)),
            (Kind::Closed, true, libc::ECONNABORTED, ESTABLISHED, Some(Ended::Destroyed)),
            (Kind::Closed, true, libc::ETIMEDOUT, ESTABLISHED, Some(Ended::TimedOut)),
            (Kind::Failed, true, libc::ECONNREFUSED, SYN_SENT, Some(Ended::Refused)),
            (Kind::Failed, true, libc::EHOSTUNREACH, SYN_SENT, Some(Ended::Unreachable)),
            (Kind::Failed, true, 0, SYN_SENT, Some(Ended::GivenUp)),
            (Kind::Closed, true, libc::EIO, ESTABLISHED, Some(Ended::Broken)),
            (Kind::Opened, true, 0, ESTABLISHED, None),
            (Kind::Denied, true, libc::ECONNREFUSED, SYN_SENT, None),
        ] {
            let error = error.cast_unsigned();
            assert_eq!(Ended::of(kind, opener, error, state), ended, "{kind:?} {opener} {error} {state}");
        }
    }
}
