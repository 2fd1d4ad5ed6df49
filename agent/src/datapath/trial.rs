//! One sealed SYN of the agent's own, to see whether seals arrive on a path.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use waxseal_common::ids::protocol;
use waxseal_common::seal::SealOption;
use waxseal_common::state::Tuple;
use waxseal_common::wire::{Opening, SessionKey, Spi, wire_seal};
use zerocopy::IntoBytes as _;

use super::refusal::{fold, ip, pseudo, sum};

/// Sends a SYN under that session to an address, by the route that the kernel takes. The answer, if any, is reset by the
/// kernel: nobody here waits for it.
pub fn send_sealed_syn(to: SocketAddr, spi: Spi, key: SessionKey) -> io::Result<()> {
    let from = source_towards(to)?;
    // Holds the port while the SYN is out; dropped without listening on it for anybody.
    let held = TcpListener::bind((from, 0))?;
    let tuple = Tuple {
        source: from.into(),
        destination: to.ip().into(),
        source_port: held.local_addr()?.port(),
        destination_port: to.port(),
        ..Tuple::default()
    };
    let isn: u32 = rand::random();
    let opening = Opening {
        source: tuple.source,
        destination: tuple.destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        isn,
    };
    drop(held);
    let segment = syn(&tuple, isn, &wire_seal(&key, spi, &opening));
    let packet = [ip(&tuple, protocol::TCP, segment.len() as u16), segment].concat();
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    // A raw socket takes the port for the protocol.
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    Ok(())
}

/// The address that this node would send from.
fn source_towards(to: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// A SYN with one option: the seal, at the end of the header.
fn syn(tuple: &Tuple, isn: u32, seal: &SealOption) -> Vec<u8> {
    let mut segment = vec![0u8; 20];
    segment[0..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    segment[4..8].copy_from_slice(&isn.to_be_bytes());
    segment.extend(seal.as_bytes());
    segment[12] = ((segment.len() / 4) as u8) << 4;
    segment[13] = 0x02;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let checksum = fold(pseudo(tuple, protocol::TCP, segment.len()) + sum(&segment));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

#[cfg(test)]
mod tests {
    use waxseal_common::packet;
    use waxseal_common::wire::is_true;

    use super::*;

    #[test]
    fn the_syn_carries_a_true_seal_and_a_right_checksum() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
            let (source, destination) = (address(source), address(destination));
            let tuple =
                Tuple { source, destination, source_port: 4000, destination_port: 7461, ..Tuple::default() };
            let opening = Opening { source, destination, source_port: 4000, destination_port: 7461, isn: 77 };
            let key = SessionKey([1, 2]);
            let segment = syn(&tuple, 77, &wire_seal(&key, Spi(9), &opening));
            assert_eq!(fold(pseudo(&tuple, protocol::TCP, segment.len()) + sum(&segment)), 0);
            let packet = [ip(&tuple, protocol::TCP, segment.len() as u16), segment].concat();
            let head = packet::ip(&packet[..]).unwrap();
            let tcp = packet::tcp(&packet[..], head.transport).unwrap();
            assert!(tcp.opens());
            let option = packet::seal_option(&packet[..], head.transport, &tcp).unwrap();
            assert!(is_true(&option, &key, &opening));
        }
    }
}
