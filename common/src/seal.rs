//! The local seal: the TCP option on a SYN that says which workload opened the connection.
//!
//! ```text
//!  0      1      2      3      4      5      6      7      8 ...                    15
//! +------+------+------+------+------+------+------+------+------+ ... +------+------+
//! | 253  | 16   | experiment  |  identity (big-endian)    |  MAC (big-endian, 64 bit)  |
//! +------+------+------+------+------+------+------+------+------+ ... +------+------+
//! ```
//!
//! Kind 253 with an experiment id is RFC 6994. The MAC is SipHash-2-4 under a key that this node draws once per boot,
//! over the identity, the initial sequence number and the minute. The sequence number is the one field of a SYN that
//! survives NAT inside the node; the minute bounds a replay. Bytes without a true MAC are no identity.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::IdentityId;

/// TCP option kind for experiments (RFC 4727).
pub const OPTION_KIND: u8 = 253;
/// Length of the whole option in bytes. The kernel's options leave 20 of the 40 bytes in a SYN.
pub const OPTION_LENGTH: u8 = 16;
/// Our experiment id (RFC 6994): options of the same kind with another id are somebody else's.
pub const EXPERIMENT: u16 = 0x5758;
/// Nanoseconds of the monotonic clock in one epoch. A seal is believed in its own epoch and the next.
pub const EPOCH_NANOSECONDS: u64 = 60_000_000_000;

/// The key under which this node seals. Drawn at random once per boot; lives only in a map that root can read.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SealKey(pub [u64; 2]);

impl core::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// The option as it stands in the TCP header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SealOption {
    kind: u8,
    length: u8,
    experiment: [u8; 2],
    number: [u8; 4],
    mac: [u8; 8],
}

impl SealOption {
    #[inline(always)]
    pub(crate) const fn new(experiment: u16, number: u32, mac: u64) -> Self {
        Self {
            kind: OPTION_KIND,
            length: OPTION_LENGTH,
            experiment: experiment.to_be_bytes(),
            number: number.to_be_bytes(),
            mac: mac.to_be_bytes(),
        }
    }

    #[inline(always)]
    pub(crate) const fn is(&self, experiment: u16) -> bool {
        self.kind == OPTION_KIND
            && self.length == OPTION_LENGTH
            && u16::from_be_bytes(self.experiment) == experiment
    }

    #[inline(always)]
    pub(crate) const fn number(&self) -> u32 {
        u32::from_be_bytes(self.number)
    }

    /// The MAC that it claims.
    #[inline(always)]
    pub const fn mac(&self) -> u64 {
        u64::from_be_bytes(self.mac)
    }
}

/// What a true seal proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Who opened the connection.
    pub identity: IdentityId,
    /// The MAC, which also serves as the name of this opening inside the node.
    pub mac: u64,
}

/// The minute of the monotonic clock that `now` (nanoseconds) lies in.
#[inline(always)]
pub const fn epoch(now: u64) -> u64 {
    now / EPOCH_NANOSECONDS
}

/// Makes the seal for a SYN with this initial sequence number (host order), at `now` (monotonic nanoseconds).
#[inline(always)]
pub fn seal(key: &SealKey, identity: IdentityId, isn: u32, now: u64) -> (SealOption, u64) {
    let mac = mac(key, identity, isn, epoch(now));
    (SealOption::new(EXPERIMENT, identity.0, mac), mac)
}

/// Checks the bytes found at the end of a SYN's header. `None` is no identity, whatever the bytes say.
#[inline(always)]
pub fn verify(key: &SealKey, option: &SealOption, isn: u32, now: u64) -> Option<Sealed> {
    if !is_ours(option) {
        return None;
    }
    let identity = IdentityId(option.number());
    let claimed = option.mac();
    let now = epoch(now);
    // The SYN may have been sealed in the minute before this one. Nothing is gained by comparing in constant time:
    // the comparison is one 64-bit instruction and a guess cannot be refined.
    let genuine =
        claimed == mac(key, identity, isn, now) || (now > 0 && claimed == mac(key, identity, isn, now - 1));
    if genuine { Some(Sealed { identity, mac: claimed }) } else { None }
}

/// Whether the bytes have the shape of our option. Says nothing about truth.
#[inline(always)]
pub fn is_ours(option: &SealOption) -> bool {
    option.is(EXPERIMENT)
}

#[inline(always)]
fn mac(key: &SealKey, identity: IdentityId, isn: u32, epoch: u64) -> u64 {
    siphash24(key.0, [(u64::from(identity.0) << 32) | u64::from(isn), epoch])
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of a fixed number of little-endian words, unrolled for the verifier.
#[inline(always)]
pub(crate) fn siphash24<const N: usize>([k0, k1]: [u64; 2], words: [u64; N]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        v = block(v, word);
    }
    // The last block of a message of whole words holds nothing but its length in the top byte.
    v = block(v, (N as u64 * 8) << 56);
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn block(mut v: [u64; 4], word: u64) -> [u64; 4] {
    v[3] ^= word;
    v = round(round(v));
    v[0] ^= word;
    v
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use siphasher::sip::SipHasher24;
    use zerocopy::IntoBytes as _;

    use super::*;

    const KEY: SealKey = SealKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    const NOW: u64 = 7 * EPOCH_NANOSECONDS + 5;

    #[test]
    fn the_mac_is_siphash_2_4() {
        for (first, second) in [(0, 0), (1, 2), (u64::MAX, 0x0123_4567_89ab_cdef)] {
            let mut oracle = SipHasher24::new_with_keys(KEY.0[0], KEY.0[1]);
            oracle.write(&u64::to_le_bytes(first));
            oracle.write(&u64::to_le_bytes(second));
            assert_eq!(siphash24(KEY.0, [first, second]), oracle.finish());
        }
    }

    #[test]
    fn a_true_seal_proves_its_identity() {
        let (option, mac) = seal(&KEY, IdentityId(300), 42, NOW);
        assert_eq!(option.as_bytes().len(), usize::from(OPTION_LENGTH));
        assert_eq!(verify(&KEY, &option, 42, NOW), Some(Sealed { identity: IdentityId(300), mac }));
    }

    #[test]
    fn a_seal_lives_through_the_next_minute_and_no_longer() {
        let (option, _) = seal(&KEY, IdentityId(300), 42, NOW);
        assert!(verify(&KEY, &option, 42, NOW + EPOCH_NANOSECONDS).is_some());
        assert!(verify(&KEY, &option, 42, NOW + 2 * EPOCH_NANOSECONDS).is_none());
        assert!(verify(&KEY, &option, 42, NOW - EPOCH_NANOSECONDS).is_none(), "from the future");
    }

    #[test]
    fn no_changed_bit_is_believed() {
        let (option, _) = seal(&KEY, IdentityId(300), 42, NOW);
        for bit in 0..128 {
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(option.as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let forged = SealOption::read_from_bytes(&bytes).unwrap();
            assert_eq!(verify(&KEY, &forged, 42, NOW), None, "bit {bit}");
        }
    }

    #[test]
    fn another_sequence_number_or_key_is_not_believed() {
        let (option, _) = seal(&KEY, IdentityId(300), 42, NOW);
        assert_eq!(verify(&KEY, &option, 43, NOW), None);
        assert_eq!(verify(&SealKey([1, 2]), &option, 42, NOW), None);
    }
}
