//! A running `waxseal tap -o json`, and what it has said.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a tap has said until now.
#[derive(Debug, Default)]
struct Heard {
    lines: Mutex<Vec<Flow>>,
    more: Condvar,
}

/// A tap that follows. Dropping it ends it.
#[derive(Debug)]
pub struct Tap {
    child: Child,
    heard: Arc<Heard>,
}

/// One line of a tap, with words for the fields that tests ask about.
#[derive(Clone, Debug)]
pub struct Flow(pub Value);

impl Flow {
    /// The text of a field, found by a dotted path; empty when it is not there.
    pub fn text(&self, path: &str) -> String {
        let found = path.split('.').try_fold(&self.0, |value, key| value.get(key));
        match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// Whether a connection was judged, and this is the word for the verdict: allow, would-deny, audit, deny.
    pub fn is(&self, verdict: &str) -> bool {
        !self.closes() && self.text("verdict") == verdict
    }

    /// Whether a connection has closed.
    pub fn closes(&self) -> bool {
        self.text("kind") == "closed"
    }

    /// Whether it is between workloads of these names (`namespace/name`) on this port.
    pub fn between(&self, source: &str, destination: &str, port: u16) -> bool {
        self.text("source.name") == source
            && self.text("destination.name") == destination
            && self.text("port") == port.to_string()
    }
}

impl Tap {
    /// Starts the command and begins to read.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("waxseal tap starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let heard = Arc::<Heard>::default();
        let writer = Arc::clone(&heard);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lock(&writer.lines).push(Flow(value));
                writer.more.notify_all();
            }
        });
        Self { child, heard }
    }

    /// The process number of the command.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything heard until now.
    pub fn all(&self) -> Vec<Flow> {
        lock(&self.heard.lines).clone()
    }

    /// Waits for a flow for which `wanted` holds, said before or after this call.
    pub fn expect(&self, what: &str, within: Duration, wanted: impl Fn(&Flow) -> bool) -> Flow {
        let deadline = Instant::now() + within;
        let mut lines = lock(&self.heard.lines);
        let mut seen = 0;
        loop {
            // Each is looked at once: the reader of the lines waits meanwhile.
            if let Some(flow) = lines.iter().skip(seen).find(|flow| wanted(flow)) {
                return flow.clone();
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said: Vec<String> = lines.iter().rev().take(12).map(|flow| flow.0.to_string()).collect();
                drop(lines);
                panic!(
                    "no flow within {within:?}: {what}. The last that was said, newest first:\n{}",
                    said.join("\n")
                );
            }
            let waited = self.heard.more.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many flows were heard for which `wanted` holds.
    pub fn count(&self, wanted: impl Fn(&Flow) -> bool) -> usize {
        lock(&self.heard.lines).iter().filter(|flow| wanted(flow)).count()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock(lines: &Mutex<Vec<Flow>>) -> MutexGuard<'_, Vec<Flow>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
