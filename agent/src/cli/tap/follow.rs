//! Reads a tap to its end, and beyond: an agent that restarts is waited for.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::render::Sink;
use crate::api::{Client, ClientError, Lines, Next, TapRequest};
use crate::flows::{Line, Time, read};

/// How often an agent that is away is looked for.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// A tap that is read.
pub(super) struct Follow<C> {
    pub(super) connect: C,
    pub(super) request: TapRequest,
    /// Whether an agent that went away is waited for.
    pub(super) reconnect: bool,
    /// How often to tell what was counted.
    pub(super) every: Option<Duration>,
}

/// Why there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// All that was asked for has been shown.
    Done,
    /// The agent has gone.
    ByAgent,
}

/// Where an interrupted tap goes on: the time of the last flow, and the lines of that moment, which come again.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub(super) time: Option<Time>,
    lines: Vec<String>,
}

impl Mark {
    /// Whether the line was there before; notes it if not.
    pub(super) fn is_new(&mut self, text: &str) -> bool {
        let Ok(Line::Flow(flow)) = read(text) else { return true };
        if self.time.is_none_or(|time| flow.time > time) {
            self.time = Some(flow.time);
            self.lines.clear();
        } else if self.lines.iter().any(|line| line == text) {
            return false;
        }
        if self.time == Some(flow.time) {
            self.lines.push(text.to_owned());
        }
        true
    }
}

impl Mark {
    /// What is asked for after an interruption.
    pub(super) fn go_on(&self, request: &TapRequest) -> TapRequest {
        let mut request = request.clone();
        if let Some(time) = self.time {
            request.filter.since = Some(time);
            request.last = None;
        }
        request
    }
}

impl<C: FnMut() -> Result<Client, ClientError>> Follow<C> {
    /// Shows everything.
    pub(super) fn run<W: Write>(&mut self, sink: &mut Sink<W>) -> anyhow::Result<Stopped> {
        let mut mark = Mark::default();
        loop {
            let lines = self.open(&mark)?;
            match self.read(lines, sink, &mut mark) {
                Ok(()) => {}
                Err(Broken::Agent(error)) if self.reconnect && is_away(&error) => {}
                Err(Broken::Agent(error)) => return Err(error.into()),
                Err(Broken::Out(error)) => return Err(error.into()),
            }
            sink.tell()?;
            if !self.request.follow || self.request.filter.until.is_some_and(|until| until <= Time::now()) {
                return Ok(Stopped::Done);
            }
            if !self.reconnect {
                return Ok(Stopped::ByAgent);
            }
            let _nowhere_to_write =
                writeln!(anstream::stderr(), "the agent closed the tap; waiting for it to come back");
            sleep(RETRY);
        }
    }

    /// With `reconnect`, waits for the agent. What was shown before is asked for again only in its last millisecond.
    fn open(&mut self, mark: &Mark) -> Result<Lines, ClientError> {
        let request = mark.go_on(&self.request);
        loop {
            match (self.connect)().and_then(|client| client.tap(request.clone())) {
                Err(error) if self.reconnect && is_away(&error) => sleep(RETRY),
                opened => return opened,
            }
        }
    }

    fn read<W: Write>(&self, mut lines: Lines, sink: &mut Sink<W>, mark: &mut Mark) -> Result<(), Broken> {
        if !self.reconnect
            && let Some(out) = sink.verbatim()
        {
            return lines.copy_to(out)?.map_err(Broken::Out);
        }
        let mut due = self.every.map(|every| Instant::now() + every);
        loop {
            let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
            match lines.next_within(patience)? {
                Next::End => return sink.flush().map_err(Broken::Out),
                Next::Pause => {}
                Next::Line(text) => {
                    if !self.reconnect || mark.is_new(&text) {
                        sink.take(&text)?;
                    }
                    if lines.is_drained() && due.is_none() {
                        sink.flush()?;
                    }
                }
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                sink.tell()?;
                due = self.every.map(|every| Instant::now() + every);
            }
        }
    }
}

/// The agent may come back.
pub(super) fn is_away(error: &ClientError) -> bool {
    matches!(error, ClientError::NotReachable { .. } | ClientError::Closed(_))
}

/// Which end has broken.
#[derive(Debug)]
enum Broken {
    Agent(ClientError),
    Out(std::io::Error),
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        Self::Agent(error)
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Out(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::{Flow, json, samples};

    #[test]
    fn what_was_shown_in_the_last_moment_is_not_shown_again() {
        let line = |ms: u64, cookie: u64| {
            let mut out = Vec::new();
            let flow = Flow { time: Time(ms), cookie, ..samples::flow(&samples::allowed()) };
            json(&flow, &mut out);
            String::from_utf8(out).unwrap().trim_end().to_owned()
        };
        let mut mark = Mark::default();
        for (ms, cookie, new) in [
            (1, 1, true),
            (1, 2, true),
            (1, 1, false),
            (2, 1, true),
            (2, 3, true),
            (2, 1, false),
            (2, 3, false),
            (1, 9, true),
        ] {
            assert_eq!(mark.is_new(&line(ms, cookie)), new, "{ms} {cookie}");
        }
        assert_eq!(mark.time, Some(Time(2)));
        assert!(mark.is_new(r#"{"v":1,"lost":2,"cause":"slow-reader"}"#), "a loss is told each time");
    }
}
