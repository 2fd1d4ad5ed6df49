//! Writes the archive the kernel unpacks at boot: cpio, format `newc`. Everything in it belongs to root.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_600;

/// An archive that grows.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0, directories: BTreeSet::new() }
    }

    /// A directory, with those above it.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, &[])
    }

    /// A file that may be executed.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, PROGRAM, bytes)
    }

    /// A file that only root may read.
    pub(super) fn data(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(path, FILE, bytes)
    }

    /// The end mark.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some(above) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(above)?;
        }
        self.entry(path, mode, bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let name = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // inode, mode, owner, group, links, time, size, device (2), node (2), length of the name, no checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut head = String::from("070701");
        for field in fields {
            let _ = write!(head, "{field:08X}");
        }
        self.put(head.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(bytes)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents start at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_back_by_its_own_rules() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.program("/init", b"#!/bin/sh\n").unwrap();
        archive.data("/etc/deep/file", b"x").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&bytes[range]).unwrap().to_owned();
        let number = |at: usize| usize::from_str_radix(&text(at..at + 8), 16).unwrap();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(text(at..at + 6), "070701");
            let (size, length) = (number(at + 54), number(at + 94));
            names.push(text(at + 110..at + 110 + length - 1));
            at = (at + 110 + length).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(names, ["init", "etc", "etc/deep", "etc/deep/file", "TRAILER!!!"]);
    }
}
