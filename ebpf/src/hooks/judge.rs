//! judge: answers one question from the packet's bytes. Attached nowhere; the differential test and `waxseal policy
//! explain` run it through BPF_PROG_TEST_RUN to hear what the kernel itself would say.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::verdict::{Direction, Peer, Question};

use crate::judge::Bench;
use crate::maps;

/// Bytes 14 on of the packet: direction, protocol, unresolved, loopback, port (2, big-endian), zero (2), subject (4,
/// big-endian), peer (4, big-endian), the other end's address (16). The answer: verdict in bits 0..3, reason in bits
/// 3..8, rule in bits 8..32; all ones when the packet is too short.
#[classifier]
pub(crate) fn judge(ctx: TcContext) -> i32 {
    let Some(settings) = maps::settings() else { return -1 };
    let bench = Bench::open(settings);
    let Ok(q) = ctx.load::<[u8; 32]>(14) else { return -1 };
    let peer = IdentityId(u32::from_be_bytes([q[12], q[13], q[14], q[15]]));
    let mut address = [0u8; 16];
    let mut byte = 0;
    while byte < 16 {
        address[byte] = q[16 + byte];
        byte += 1;
    }
    let judged = bench.ask(&Question {
        direction: if q[0] == 0 { Direction::Ingress } else { Direction::Egress },
        subject: IdentityId(u32::from_be_bytes([q[8], q[9], q[10], q[11]])),
        peer: if q[2] == 1 { Peer::Unresolved } else { Peer::Known(peer) },
        peer_address: bench.address(&Address(address)),
        loopback: q[3] == 1,
        protocol: q[1],
        port: u16::from_be_bytes([q[4], q[5]]),
    });
    (judged.verdict as u32 | (judged.reason as u32) << 3 | judged.rule.0 << 8).cast_signed()
}
