//! A copy of the last good documents, so that an agent that restarts over bad ones still knows what is in force.
//!
//! Each text is in a file that is called after its SHA-256; an index, replaced as a whole, says which texts are the set
//! and where they came from. A change of one document writes one text and the index, and a crash at any moment leaves
//! the set before or the set after.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::policy::{self, PolicySet};
use crate::spiffe::TrustDomain;

const INDEX: &str = "index.json";
/// Up to how many new texts are brought to the disk one by one.
const ONE_BY_ONE: usize = 8;

/// One text of the set.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// Where it came from, for people; also the order.
    file: String,
    sha256: String,
}

/// The copy.
#[derive(Debug)]
pub(super) struct LastGood {
    directory: PathBuf,
    /// What this process has written, by where it came from.
    written: HashMap<PathBuf, (Arc<str>, String)>,
}

impl LastGood {
    /// The copy below a state directory.
    pub(super) fn new(state: &Path) -> Self {
        Self { directory: state.join("last-good"), written: HashMap::new() }
    }

    /// Makes these texts the last good ones.
    pub(super) fn keep<'a>(
        &mut self,
        texts: impl Iterator<Item = (&'a Path, &'a Arc<str>)>,
    ) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut written = HashMap::new();
        let mut fresh = Vec::new();
        for (path, text) in texts {
            let known = self.written.get(path).filter(|(old, _)| Arc::ptr_eq(old, text) || old == text);
            let sha256 = if let Some((_, sha256)) = known {
                sha256.clone()
            } else {
                let sha256 = sha256(text);
                fresh.push((sha256.clone(), Arc::clone(text)));
                sha256
            };
            written.insert(path.to_owned(), (Arc::clone(text), sha256));
        }
        if fresh.is_empty() && written.len() == self.written.len() {
            return Ok(());
        }
        self.write_texts(&fresh)?;
        self.write_index(&written)?;
        self.written = written;
        self.sweep()
    }

    fn write_texts(&self, texts: &[(String, Arc<str>)]) -> io::Result<()> {
        for (name, text) in texts {
            let path = self.directory.join(name);
            if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
                continue;
            }
            let file = write(&path, text.as_bytes())?;
            if texts.len() <= ONE_BY_ONE {
                file.sync_all()?;
            }
        }
        if texts.len() > ONE_BY_ONE {
            nix::unistd::syncfs(File::open(&self.directory)?)?;
        }
        Ok(())
    }

    fn write_index(&self, written: &HashMap<PathBuf, (Arc<str>, String)>) -> io::Result<()> {
        let entry = |(path, (_, sha256)): (&PathBuf, &(Arc<str>, String))| Entry {
            file: path.to_string_lossy().into_owned(),
            sha256: sha256.clone(),
        };
        let mut entries: Vec<Entry> = written.iter().map(entry).collect();
        entries.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        let fresh = self.directory.join("index.new");
        write(&fresh, &serde_json::to_vec(&entries)?)?.sync_all()?;
        fs::rename(&fresh, self.directory.join(INDEX))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes the texts that the index does not name.
    fn sweep(&self) -> io::Result<()> {
        let named: BTreeSet<&str> = self.written.values().map(|(_, sha256)| sha256.as_str()).collect();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != INDEX && !name.to_str().is_some_and(|name| named.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Reads the copy; `None` when there is none that can be used. Places are those in the files as they were.
    pub(super) fn read(&self, trust_domain: &TrustDomain) -> Option<PolicySet> {
        let index = fs::read(self.directory.join(INDEX)).ok()?;
        let entries: Vec<Entry> = serde_json::from_slice(&index).ok()?;
        let texts: Vec<(PathBuf, String)> = entries
            .into_iter()
            .map(|Entry { file, sha256: name }| {
                // The name becomes part of a path only if it is a hash.
                let is_hash = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                let text = fs::read_to_string(self.directory.join(is_hash.then_some(&name)?)).ok()?;
                (sha256(&text) == name).then(|| (PathBuf::from(file), text))
            })
            .collect::<Option<_>>()?;
        let files = texts.iter().map(|(file, text)| (file.as_path(), text.as_str()));
        policy::parse_all(files, trust_domain).ok()
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn sha256(text: &str) -> String {
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        let _infallible = std::fmt::Write::write_fmt(&mut name, format_args!("{byte:02x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: NAME }\nspec: {}\n";

    fn keep(copy: &mut LastGood, names: &[(&str, &str)]) {
        let texts: Vec<(PathBuf, Arc<str>)> = names
            .iter()
            .map(|(file, name)| (PathBuf::from(file), POLICY.replace("NAME", name).into()))
            .collect();
        copy.keep(texts.iter().map(|(path, text)| (path.as_path(), text))).unwrap();
    }

    fn kept(state: &Path) -> Option<Vec<String>> {
        let set = LastGood::new(state).read(&"a.org".parse().unwrap())?;
        Some(set.policies.iter().map(|policy| format!("{} {}", policy.name, policy.origin)).collect())
    }

    #[test]
    fn the_copy_is_the_last_set_that_was_kept_and_a_restarted_agent_goes_on_with_it() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(kept(state.path()), None);
        let mut copy = LastGood::new(state.path());
        keep(&mut copy, &[("/p/a.yaml", "a"), ("/p/b.yaml", "b")]);
        assert_eq!(kept(state.path()).unwrap(), ["a /p/a.yaml:1:1", "b /p/b.yaml:1:1"]);
        keep(&mut copy, &[("/p/a.yaml", "c"), ("/p/b.yaml", "b")]);
        assert_eq!(kept(state.path()).unwrap(), ["c /p/a.yaml:1:1", "b /p/b.yaml:1:1"]);
        let mut copy = LastGood::new(state.path());
        keep(&mut copy, &[("/p/b.yaml", "b")]);
        assert_eq!(kept(state.path()).unwrap(), ["b /p/b.yaml:1:1"]);
        assert_eq!(fs::read_dir(state.path().join("last-good")).unwrap().count(), 2, "old texts are removed");
    }

    #[test]
    fn a_text_that_is_not_the_one_that_was_kept_is_not_used() {
        let state = tempfile::tempdir().unwrap();
        keep(&mut LastGood::new(state.path()), &[("/p/a.yaml", "a")]);
        let directory = state.path().join("last-good");
        let text = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let text = text.into_iter().find(|path| !path.ends_with(INDEX)).unwrap();
        fs::write(text, POLICY.replace("NAME", "x")).unwrap();
        assert_eq!(kept(state.path()), None);
        fs::write(directory.join(INDEX), r#"[{"file":"a","sha256":"../../../etc/passwd"}]"#).unwrap();
        assert_eq!(kept(state.path()), None);
    }
}
