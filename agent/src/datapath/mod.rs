//! The kernel side, seen from user space: loads and pins programs and maps, writes the tables, reads the rings, refuses
//! and ends connections. The only room that knows aya.

mod batch;
mod border;
#[expect(unsafe_code, reason = "bpf(2) takes a pointer; each call is one block with its reason")]
mod bpf;
pub mod btf;
pub mod diag;
pub mod hold;
mod kernel;
#[expect(unsafe_code, reason = "an address made from raw parts; one block with its reason")]
mod link;
mod load;
pub mod netns;
pub mod object;
pub mod probe;
mod refusal;
mod refuse;
mod sessions;
mod trial;
mod upkeep;

use std::path::PathBuf;
use std::{fs, io};

use thiserror::Error;

pub use border::{Border, Covered, Reach};
pub use kernel::{CAPACITY, Fill, Kernel, NamePattern, monotonic};
pub use load::{Channels, Polling, verify};
pub use refuse::Refuser;
pub use sessions::{InUse, Refused, Sessions};
pub use trial::send_sealed_syn;

use crate::config::Config;

/// Why the datapath cannot be set up or changed.
#[derive(Debug, Error)]
pub enum Error {
    /// The binary holds no programs.
    #[error(
        "this build holds no kernel programs and cannot enforce; build with `cargo xtask build`, or give an object with WAXSEAL_EBPF_OBJECT"
    )]
    NoObject,
    /// The kernel's types cannot be used.
    #[error(transparent)]
    Types(#[from] btf::Error),
    /// The object as a whole is refused.
    #[error("cannot load the kernel programs: {source}")]
    Object {
        /// The loader's word.
        source: Box<aya::EbpfError>,
    },
    /// One program is refused.
    #[error("cannot load the kernel program {name}: {}", brief(&source.to_string()))]
    Load {
        /// The program.
        name: &'static str,
        /// The loader's word, with the verifier's.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program that must be in the object is not.
    #[error("the object holds no program {name} of the right kind")]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// A map that must be in the object is not.
    #[error("the object holds no map {name}")]
    NoMap {
        /// The map.
        name: &'static str,
    },
    /// A map refuses a change.
    #[error("cannot read or write the map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// The loader's word.
        source: aya::maps::MapError,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to {}: {source}", to.display())]
    Attach {
        /// The program.
        program: &'static str,
        /// The directory.
        to: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file or directory cannot be used.
    #[error("cannot {call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// The first line of a loader's error and the last ones: between them lies the verifier's whole walk.
fn brief(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let [first, .., one, two, three] = lines.as_slice() else { return text.to_owned() };
    format!("{first} [...] {one}; {two}; {three}")
}

/// Tells the allocator how the agent uses memory. To be called before there are threads.
pub fn tune_heap() {
    bpf::tune_heap();
}

/// Gives memory back that only starting up needed.
pub fn trim_memory() {
    bpf::trim_memory();
}

/// Gives memory back that working something out has needed: compiling policies takes several times what is kept.
pub fn trim_heap() {
    bpf::trim_heap();
}

/// Removes every pin of this instance, and with them every program: nothing is judged any more. Returns how many pins
/// there were.
pub fn uninstall(config: &Config) -> Result<usize, Error> {
    let root = config.instance_pins();
    let failed =
        |path: &std::path::Path, source| Error::File { call: "remove", path: path.to_owned(), source };
    border::uninstall(&root);
    let mut removed = 0;
    let layouts = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(|source| failed(&root, source))?,
    };
    for layout in layouts {
        let layout = layout.map_err(|source| failed(&root, source))?.path();
        let mut pins = fs::read_dir(&layout)
            .and_then(|pins| pins.map(|pin| pin.map(|pin| pin.path())).collect::<io::Result<Vec<_>>>())
            .map_err(|source| failed(&layout, source))?;
        // Hooks that deny go before the tables they read: whoever is half removed lets nothing pass that was denied.
        pins.sort_by_key(|pin| {
            !pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
        });
        for pin in pins {
            fs::remove_file(&pin).map_err(|source| failed(&pin, source))?;
            removed += 1;
        }
        fs::remove_dir(&layout).map_err(|source| failed(&layout, source))?;
    }
    fs::remove_dir(&root).map_err(|source| failed(&root, source))?;
    // Other instances may have theirs beside it.
    if let Some(all) = root.parent() {
        let _ = fs::remove_dir(all);
    }
    Ok(removed)
}

impl Error {
    /// Whether this kernel, or this build, can never do it.
    pub const fn is_missing_feature(&self) -> bool {
        matches!(
            self,
            Self::NoObject
                | Self::Types(_)
                | Self::Object { .. }
                | Self::Load { .. }
                | Self::NoProgram { .. }
                | Self::NoMap { .. }
        )
    }
}
