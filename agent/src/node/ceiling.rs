//! The emergency ceiling survives a restart in a file of its own.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use waxseal_common::tables::Mode;

use super::Error;
use crate::flows::{Time, words};

/// A ceiling and when it was set.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ceiling {
    #[serde(with = "words")]
    pub(super) mode: Mode,
    pub(super) since: Time,
}

fn file(state: &Path) -> PathBuf {
    state.join("ceiling.json")
}

/// Reads it; `None` when there is none.
pub(super) fn read(state: &Path) -> Result<Option<Ceiling>, Error> {
    let path = file(state);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| Error::File { call: "read", path: path.clone(), source })?,
    };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::File {
        call: "parse",
        path,
        source: error.into(),
    })
}

/// Writes it, or removes it. The file is whole or not there, whatever happens.
pub(super) fn write(state: &Path, ceiling: Option<Ceiling>) -> Result<(), Error> {
    let path = file(state);
    let failed = |call| move |path: PathBuf, source| Error::File { call, path, source };
    let Some(ceiling) = ceiling else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(path, error)),
            _ => Ok(()),
        };
    };
    let fresh = path.with_extension("new");
    let text =
        serde_json::to_string(&ceiling).map_err(|error| failed("write")(fresh.clone(), error.into()))?;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| failed("write")(path, error))
}
