//! The one address that the socket library can read but not make: a device, for packet sockets (packet(7)).

use std::ptr;

use nix::sys::socket::{LinkAddr, SockaddrLike as _};

/// The address of a device, for frames of an Ethernet protocol number.
pub(super) fn address(device: u32, protocol: u16) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: device.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer is to a live address of the family and the length that it says.
    unsafe { LinkAddr::from_raw(ptr::from_ref(&raw).cast(), Some(length)) }
}
