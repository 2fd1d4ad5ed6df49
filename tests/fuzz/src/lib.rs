//! Every parser of bytes that somebody else has written, each as a function of bytes that must come back.
//!
//! A target panics when something is wrong: a parser that panicked itself, a message that shows foreign text unescaped or
//! without end, a value that is not read back as it was written, tables that say something else than the documents.
//! `cargo xtask fuzz` works them with libFuzzer; the tests here put every seed to its target, and what a fuzzer has once
//! found becomes a seed.

mod documents;
mod names;
mod node;
mod wire;

/// One parser, or a few that read the same kind of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its directory of seeds.
    pub name: &'static str,
    /// Reads these bytes and looks at what comes of it.
    pub run: fn(&[u8]),
}

/// All of them, those that read the largest language first.
pub const TARGETS: [Target; 17] = [
    Target { name: "native", run: documents::policies },
    Target { name: "istio", run: documents::policies },
    Target { name: "cilium", run: documents::policies },
    Target { name: "kubernetes", run: documents::policies },
    Target { name: "cases", run: documents::cases },
    Target { name: "workloads", run: documents::workloads },
    Target { name: "config", run: documents::config },
    Target { name: "names", run: names::names },
    Target { name: "filters", run: names::filters },
    Target { name: "control", run: wire::control },
    Target { name: "mesh", run: wire::mesh },
    Target { name: "authority", run: wire::authority },
    Target { name: "certificates", run: wire::certificates },
    Target { name: "packets", run: node::packets },
    Target { name: "rings", run: node::rings },
    Target { name: "cgroups", run: node::cgroups },
    Target { name: "btf", run: node::btf },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Whether a text is fit to be printed: no control characters but line ends, nothing that turns lines round, and an end.
fn is_printable(text: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.len() < 1 << 20 && !text.chars().any(|c| (c.is_control() && c != '\n') || turns(c))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn every_target_has_seeds_and_all_seeds_a_target() {
        let found: BTreeSet<String> = files(&directory())
            .iter()
            .filter(|path| !files(path).is_empty())
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        assert_eq!(found, targets);
    }

    #[test]
    fn every_seed_passes_its_target() {
        for target in TARGETS {
            for seed in files(&directory().join(target.name)) {
                println!("{}", seed.display());
                (target.run)(&fs::read(&seed).unwrap());
            }
        }
    }

    /// Without a fuzzer: each seed with some bytes changed, in an order that is the same every time.
    #[test]
    fn every_seed_passes_with_bytes_changed() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for target in TARGETS {
            for seed in files(&directory().join(target.name)) {
                let good = fs::read(&seed).unwrap();
                for _ in 0..200 {
                    let mut bytes = good.clone();
                    for _ in 0..=random(3) {
                        let (at, by) = (random(bytes.len()), random(256) as u8);
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = by;
                        }
                    }
                    bytes.truncate(if random(4) == 0 { random(bytes.len()) } else { bytes.len() });
                    (target.run)(&bytes);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_printed_is_told_apart() {
        for (text, good) in [("a\nb", true), ("a\u{1b}b", false), ("a\u{202e}b", false), ("\r", false)] {
            assert_eq!(is_printable(text), good, "{text:?}");
        }
    }
}
