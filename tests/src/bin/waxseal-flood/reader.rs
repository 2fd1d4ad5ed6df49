//! A `waxseal tap -o json`, and what it has said, counted.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use waxseal_tests::node::Node;
use waxseal_tests::root;

/// What a tap has said.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) delivered: u64,
    pub(crate) denials: u64,
    pub(crate) lost_by_history: u64,
    /// Seconds of processor time.
    pub(crate) cpu: f64,
}

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    denials: AtomicU64,
    slow: AtomicU64,
    history: AtomicU64,
}

/// The running tap.
#[derive(Debug)]
pub(crate) struct Reader {
    child: Child,
    counts: Arc<Counts>,
}

impl Reader {
    pub(crate) fn start(node: &Node) -> Self {
        let mut command = node.command(&["tap", "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the tap starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let counts = Arc::<Counts>::default();
        let own = Arc::clone(&counts);
        thread::spawn(move || {
            let mut reader = BufReader::with_capacity(1 << 20, stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                own.count(&line);
                line.clear();
            }
        });
        root::wait("the tap is attached", Duration::from_secs(10), || {
            (node.status()["taps"]["readers"].as_u64() == Some(1)).then_some(())
        });
        Self { child, counts }
    }

    /// Waits until everything that was published has come, or was told as lost.
    pub(crate) fn finish(mut self, published: u64) -> Seen {
        root::wait("the tap has said everything", Duration::from_mins(1), || {
            let told = self.counts.delivered.load(Relaxed) + self.counts.slow.load(Relaxed);
            (told >= published).then_some(())
        });
        let cpu = super::cpu_seconds(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        Seen {
            delivered: self.counts.delivered.load(Relaxed),
            denials: self.counts.denials.load(Relaxed),
            lost_by_history: self.counts.history.load(Relaxed),
            cpu,
        }
    }
}

impl Counts {
    fn count(&self, line: &[u8]) {
        const LOST: &[u8] = b"{\"v\":1,\"lost\":";
        if !line.starts_with(LOST) {
            self.delivered.fetch_add(1, Relaxed);
            // Far in front of anything that others choose.
            let denied = line.get(..120).is_some_and(|start| {
                start.windows(b"\"kind\":\"denied\"".len()).any(|window| window == b"\"kind\":\"denied\"")
            });
            self.denials.fetch_add(u64::from(denied), Relaxed);
            return;
        }
        let digits = line[LOST.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let count = digits.fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let text = String::from_utf8_lossy(line);
        if text.contains("slow-reader") {
            self.slow.fetch_add(count, Relaxed);
        } else if text.contains("history") {
            self.history.fetch_add(count, Relaxed);
        }
    }
}
