//! Where it was measured.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use serde::Serialize;

use crate::proxies::{Product, Programs};

/// What a reader must know to compare figures with those of another machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_gib: f64,
    /// How busy it was with other things before anything began: runnable processes over a minute.
    pub(crate) load_before: f64,
    pub(crate) hypervisor: bool,
    /// The competitors, as they call themselves.
    pub(crate) programs: Vec<String>,
}

pub(crate) fn describe(programs: &Programs) -> Machine {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut versions: Vec<String> =
        Product::ALL.iter().filter_map(|product| programs.version(*product)).collect();
    versions.extend(first_line(Command::new("nft").arg("--version")));
    Machine {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        processor: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        processors: available_parallelism().map_or(1, usize::from),
        memory_gib: kib.map_or(f64::NAN, |kib| (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0),
        load_before: load.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN),
        hypervisor: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        programs: versions,
    }
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}

impl Machine {
    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "Linux {}, {} × {}{}, {} GiB; load before {:.1}; {}",
            self.kernel,
            self.processors,
            self.processor,
            if self.hypervisor { " (virtual)" } else { "" },
            self.memory_gib,
            self.load_before,
            self.programs.join("; ")
        )
    }
}
