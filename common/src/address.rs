//! An IP address as sixteen bytes, IPv4 in its mapped form, so that one map and one rule serve both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 address in its mapped form `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
///
/// Aligned, so that the kernel programs compare and copy it in words.
#[repr(C, align(8))]
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// Maps the four bytes of an IPv4 address, in network order.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        // As two words: sixteen single bytes would be a call in the kernel programs.
        let low = u64::from_ne_bytes([0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]);
        zerocopy::transmute!([0, low])
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        let [high, low] = self.halves();
        high == 0 && low >> 32 == 0xffff
    }

    /// Whether the address is 127.0.0.0/8 or ::1, which never leave their network namespace.
    #[inline(always)]
    pub fn is_loopback(self) -> bool {
        let [high, low] = self.halves();
        high == 0 && (low == 1 || low >> 24 == 0x0000_00ff_ff7f)
    }

    /// Whether no address is given: 0.0.0.0, its mapped form, or ::. Connecting there means loopback.
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        let [high, low] = self.halves();
        high == 0 && (low == 0 || low == 0xffff_0000_0000)
    }

    /// The two big-endian halves, high first. One definition for the comparisons above; cheap in the kernel.
    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        let b = self.0;
        [
            u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ]
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let b = address.0;
        if address.is_v4() {
            Self::V4(Ipv4Addr::new(b[12], b[13], b[14], b[15]))
        } else {
            Self::V6(Ipv6Addr::from(b))
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_covers_both_families_and_nothing_else() {
        for (text, loopback) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("128.0.0.1", false),
            ("126.255.255.255", false),
            ("::1", true),
            ("::2", false),
            ("::", false),
            ("::7f00:1", false),
            ("2001:db8::1", false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn unspecified_covers_both_families_and_nothing_else() {
        for (text, unspecified) in [("0.0.0.0", true), ("::", true), ("::1", false), ("0.0.0.1", false)] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).is_unspecified(), unspecified, "{text}");
        }
    }

    #[test]
    fn an_address_survives_the_round_trip() {
        for text in ["10.1.2.3", "2001:db8::ffff:1", "fe80::1", "0.0.0.0", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(ip)), ip);
        }
    }
}
