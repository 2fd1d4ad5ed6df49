//! Where the running kernel keeps what the programs read, from its own type information (`/sys/kernel/btf/vmlinux`).
//!
//! A reader of just so much of the format (Documentation/bpf/btf.rst) as naming a field by its path takes: the loader's
//! own reader keeps the members of types to itself.

use std::collections::HashMap;

use thiserror::Error;

/// The file in which the kernel describes its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Where a field lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bits from the start of the outermost structure.
    pub bits: u64,
}

impl Place {
    /// Bytes from the start.
    pub const fn bytes(self) -> u64 {
        self.bits / 8
    }

    /// For a bit field: its first bit within its byte, as a mask.
    pub const fn mask(self) -> u64 {
        1 << (self.bits % 8)
    }
}

/// Why the kernel's types cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {VMLINUX}: {source}; the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Read {
        /// The system's word.
        source: std::io::Error,
    },
    /// It is not what it says it is.
    #[error("{VMLINUX} is malformed at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// A field that the programs need is not there.
    #[error("this kernel has no `{path}` in `struct {structure}`")]
    NoField {
        /// The structure.
        structure: String,
        /// The path to the field.
        path: String,
    },
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a kernel.
pub struct Types<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// The place of each type's record; type ids start at 1.
    records: Vec<u32>,
    structures: HashMap<&'a [u8], u32>,
}

impl std::fmt::Debug for Types<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Types({} types)", self.records.len())
    }
}

impl<'a> Types<'a> {
    /// Reads the index of all types.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let header = word(bytes, 4)? as usize;
        let (start, length) = (header + word(bytes, 8)? as usize, word(bytes, 12)? as usize);
        let strings = header + word(bytes, 16)? as usize;
        if u16::from_ne_bytes([byte(bytes, 0)?, byte(bytes, 1)?]) != 0xeb9f {
            return Err(Error::Malformed { at: 0 });
        }
        let mut types =
            Self { bytes, strings, records: Vec::with_capacity(length / 24), structures: HashMap::new() };
        let mut at = start;
        while at < start + length {
            let info = word(bytes, at + 4)?;
            types.records.push(at as u32);
            if kind(info) == STRUCT {
                let name = types.name(word(bytes, at)?)?;
                types.structures.insert(name, types.records.len() as u32);
            }
            at += 12 + tail(info).ok_or(Error::Malformed { at })?;
        }
        Ok(types)
    }

    /// The place of a field, by a path such as `__sk_common.skc_net.net`. Members of anonymous members count as the
    /// outer structure's own, as in C.
    pub fn field(&self, structure: &str, path: &str) -> Result<Place, Error> {
        let missing = || Error::NoField { structure: structure.to_owned(), path: path.to_owned() };
        let mut id = *self.structures.get(structure.as_bytes()).ok_or_else(missing)?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, member) = self.member(id, name.as_bytes(), 0)?.ok_or_else(missing)?;
            bits += offset;
            id = self.bare(member)?;
        }
        Ok(Place { bits })
    }

    fn member(&self, id: u32, wanted: &[u8], depth: u32) -> Result<Option<(u64, u32)>, Error> {
        let Some(at) = self.record(id) else { return Ok(None) };
        let info = word(self.bytes, at + 4)?;
        if !matches!(kind(info), STRUCT | UNION) || depth > 8 {
            return Ok(None);
        }
        for index in 0..(info & 0xffff) as usize {
            let at = at + 12 + index * 12;
            let (name, member, offset) =
                (self.name(word(self.bytes, at)?)?, word(self.bytes, at + 4)?, word(self.bytes, at + 8)?);
            // With bit fields the upper eight bits hold the width.
            let offset = u64::from(if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset });
            if name == wanted {
                return Ok(Some((offset, member)));
            }
            if name.is_empty()
                && let Some((inner, found)) = self.member(self.bare(member)?, wanted, depth + 1)?
            {
                return Ok(Some((offset + inner, found)));
            }
        }
        Ok(None)
    }

    /// The type without typedefs and qualifiers.
    fn bare(&self, mut id: u32) -> Result<u32, Error> {
        for _ in 0..16 {
            let Some(at) = self.record(id) else { break };
            // typedef, volatile, const, restrict, type tag
            if !matches!(kind(word(self.bytes, at + 4)?), 8..=11 | 18) {
                break;
            }
            id = word(self.bytes, at + 8)?;
        }
        Ok(id)
    }

    fn record(&self, id: u32) -> Option<usize> {
        self.records.get((id as usize).checked_sub(1)?).map(|at| *at as usize)
    }

    fn name(&self, offset: u32) -> Result<&'a [u8], Error> {
        let at = self.strings + offset as usize;
        let rest = self.bytes.get(at..).ok_or(Error::Malformed { at })?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(Error::Malformed { at })?;
        Ok(&rest[..end])
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// How many bytes follow the twelve that every type has; `None` for a kind that is not known.
const fn tail(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    match kind(info) {
        1 | 14 | 17 => Some(4),
        3 => Some(12),
        4 | 5 | 15 | 19 => Some(count * 12),
        6 | 13 => Some(count * 8),
        2 | 7..=12 | 16 | 18 => Some(0),
        _ => None,
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Error> {
    bytes.get(at).copied().ok_or(Error::Malformed { at })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let four = bytes.get(at..at + 4).ok_or(Error::Malformed { at })?;
    Ok(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

/// The offsets that the programs read by, under the names of their globals.
pub fn offsets() -> Result<Vec<(&'static str, u64)>, Error> {
    let bytes = std::fs::read(VMLINUX).map_err(|source| Error::Read { source })?;
    let types = Types::parse(&bytes)?;
    let reuseport = types.field("sock", "__sk_common.skc_reuseport")?;
    // Renamed in 6.15, when the field came under RCU.
    let parent = types.field("kernfs_node", "parent").or_else(|_| types.field("kernfs_node", "__parent"))?;
    Ok(vec![
        ("SOCK_CGROUP", types.field("sock", "sk_cgrp_data.cgroup")?.bytes()),
        ("SOCK_ERROR", types.field("sock", "sk_err")?.bytes()),
        ("SOCK_FLAGS", types.field("sock", "__sk_common.skc_flags")?.bytes()),
        ("SOCK_NET", types.field("sock", "__sk_common.skc_net.net")?.bytes()),
        ("SOCK_REUSEPORT", reuseport.bytes()),
        ("SOCK_REUSEPORT_MASK", reuseport.mask()),
        ("NET_INUM", types.field("net", "ns.inum")?.bytes()),
        ("CGROUP_KN", types.field("cgroup", "kn")?.bytes()),
        ("KN_ID", types.field("kernfs_node", "id")?.bytes()),
        ("KN_NAME", types.field("kernfs_node", "name")?.bytes()),
        ("KN_PARENT", parent.bytes()),
        ("SKB_SK", types.field("sk_buff", "sk")?.bytes()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_are_an_error_and_no_panic() {
        for length in 0..64 {
            assert!(Types::parse(&vec![0xff; length]).is_err());
        }
        let mut short = vec![0x9f, 0xeb, 1, 0];
        for word in [24u32, 0, 1000, 0, 0] {
            short.extend(word.to_ne_bytes());
        }
        assert!(Types::parse(&short).is_err());
    }

    #[test]
    fn this_kernels_own_types_hold_every_field_that_the_programs_read() {
        if !std::path::Path::new(VMLINUX).exists() {
            return;
        }
        let offsets = offsets().unwrap();
        assert!(offsets.iter().any(|(name, offset)| *name == "SOCK_CGROUP" && *offset > 0));
    }
}
