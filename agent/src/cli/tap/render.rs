//! Lines of the agent as they are shown.

use std::io::{self, Write};
use std::time::Instant;

use super::arguments::Format;
use crate::escape::escape_within;
use crate::flows::{Flow, Line, Look, Summary, Time, details, header, line, read, wide};

/// How many pairs a summary shows at once.
const PAIRS: usize = 40;
/// Clears the screen and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Render {
    pub(super) format: Format,
    pub(super) look: Look,
    /// Whether a person watches.
    pub(super) terminal: bool,
    /// Counted instead of one by one.
    pub(super) summary: bool,
}

impl Render {
    /// Whether the agent's own lines are what is asked for.
    const fn is_verbatim(self) -> bool {
        matches!(self.format, Format::Json) && !self.summary
    }

    /// A line of the agent, with its newline.
    pub(super) fn show(self, text: &str, now: Time) -> String {
        if self.is_verbatim() {
            return format!("{text}\n");
        }
        match read(text) {
            Ok(Line::Flow(flow)) => self.flow(&flow, now),
            Ok(Line::Lost(loss, None)) => format!("{loss}\n"),
            Ok(Line::Lost(loss, Some(node))) => format!("{loss} at {node}\n"),
            Ok(Line::Node(news)) => format!("{news}\n"),
            Ok(Line::Present) => String::new(),
            // A newer agent says something that this program does not know; better shown as it is than not at all.
            Err(_unknown) => format!("{}\n", escape_within(text, 4096)),
        }
    }

    fn flow(self, flow: &Flow, now: Time) -> String {
        match self.format {
            Format::Dict => format!("{}\n", details(flow, self.look, now)),
            Format::Wide => format!("{}\n", wide(flow, self.look, now)),
            Format::Compact | Format::Json => format!("{}\n", line(flow, self.look, now)),
        }
    }
}

/// Where lines go.
pub(super) struct Sink<W> {
    render: Render,
    out: W,
    summary: Summary,
    told: Instant,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(render: Render, out: W) -> Self {
        Self { render, out, summary: Summary::default(), told: Instant::now() }
    }

    /// What stands above the lines.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.render.terminal && self.render.format == Format::Compact && !self.render.summary {
            writeln!(self.out, "{}", header(self.render.look))?;
        }
        self.out.flush()
    }

    /// The stream itself, where the agent's own lines are what is asked for.
    pub(super) fn verbatim(&mut self) -> Option<&mut W> {
        self.render.is_verbatim().then_some(&mut self.out)
    }

    /// One line of the agent.
    pub(super) fn take(&mut self, text: &str) -> io::Result<()> {
        if !self.render.summary {
            return self.out.write_all(self.render.show(text, Time::now()).as_bytes());
        }
        match read(text) {
            Ok(Line::Flow(flow)) => self.summary.add(&flow, self.render.look),
            Ok(Line::Lost(loss, _)) => self.summary.lose(loss),
            Ok(Line::Node(news)) if self.render.format != Format::Json => writeln!(self.out, "{news}")?,
            Ok(Line::Node(_)) => writeln!(self.out, "{text}")?,
            // What cannot be read cannot be counted.
            Ok(Line::Present) | Err(_) => {}
        }
        Ok(())
    }

    /// Writes what has been counted.
    pub(super) fn tell(&mut self) -> io::Result<()> {
        if !self.render.summary {
            return Ok(());
        }
        let now = Time::now();
        let span = self.told.elapsed();
        self.told = Instant::now();
        let mut text = Vec::new();
        if self.render.format == Format::Json {
            self.summary.json(now, &mut text)?;
        } else {
            let above = if self.render.terminal { CLEAR } else { "" };
            write!(text, "{above}{now}\n{}", self.summary.table(PAIRS, span))?;
        }
        self.out.write_all(&text)?;
        self.out.flush()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
