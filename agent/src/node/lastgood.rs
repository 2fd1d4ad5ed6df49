//! A copy of the last good documents, so that an agent that restarts over bad ones still knows what is in force.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::policy::{self, PolicySet};
use crate::spiffe::TrustDomain;

/// The directory of the copy.
pub(super) fn directory(state: &Path) -> PathBuf {
    state.join("last-good")
}

/// Copies the documents. A copy that does not read back as a good set, because a file changed meanwhile, is thrown away:
/// the change is on its way as a set of its own.
pub(super) fn keep(policies: &Path, state: &Path, trust_domain: &TrustDomain) -> io::Result<()> {
    let fresh = state.join("last-good.new");
    remove(&fresh)?;
    fs::DirBuilder::new().mode(0o700).create(&fresh)?;
    for entry in fs::read_dir(policies)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if let (true, Some(name)) = (yaml && path.is_file(), path.file_name()) {
            let mut copy =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh.join(name))?;
            io::copy(&mut fs::File::open(&path)?, &mut copy)?;
            copy.sync_all()?;
        }
    }
    if policy::load(std::slice::from_ref(&fresh), trust_domain).is_err() {
        return remove(&fresh);
    }
    let place = directory(state);
    remove(&place)?;
    fs::rename(&fresh, &place)
}

/// Reads the copy; `None` when there is none that can be used.
pub(super) fn read(state: &Path, trust_domain: &TrustDomain) -> Option<PolicySet> {
    let place = directory(state);
    if !place.is_dir() {
        return None;
    }
    policy::load(&[place], trust_domain).ok()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
