//! Asks the agent for something, with the frame that waits for it.

use waxseal_common::state::Counter;
use waxseal_common::wire::{Asks, DATAGRAM_FRAME, Notice, RouteKey, SYN_FRAME, Spi};

use crate::case::Case;
use crate::frame::Frame;
use crate::maps;

/// A notice's head about a case. Written field by field: the stack has no room for a frame.
#[inline(always)]
fn head(notice: &mut Notice, case: &Case, route: &RouteKey, asks: Asks) {
    notice.at = case.at;
    notice.route = *route;
    notice.source = case.tuple.source;
    notice.source_port = case.tuple.source_port;
    notice.device = 0;
    notice.length = 0;
    notice.spi = Spi(case.session);
    notice.kind = asks as u8;
    notice.pad = 0;
    notice.cookie = case.cookie;
    notice.network = 0;
    notice.transport = 0;
}

/// Tells something for which no frame waits.
#[inline(never)]
pub(crate) fn tell(case: &Case, route: &RouteKey, asks: u8) -> u32 {
    let Some(mut entry) = maps::NOTICES.reserve(0) else {
        maps::count(Counter::NoticesLost);
        return 0;
    };
    // SAFETY: reserved memory is writable, and the agent reads no more of the frame than the head says.
    let notice = unsafe { &mut *entry.as_mut_ptr() };
    head(notice, case, route, Asks::Intent);
    notice.kind = asks;
    entry.submit(0);
    1
}

/// Hands a SYN over. `false` when the agent cannot take it.
#[inline(never)]
pub(crate) fn hold<const LINK: usize>(frame: &Frame<'_, LINK>, case: &Case, route: &RouteKey) -> bool {
    let Some(mut entry) = maps::NOTICES.reserve(0) else {
        maps::count(Counter::NoticesLost);
        return false;
    };
    // SAFETY: as above.
    let notice = unsafe { &mut *entry.as_mut_ptr() };
    head(notice, case, route, Asks::Hold);
    notice.device = frame.device();
    notice.network = LINK as u32;
    notice.transport = LINK as u32 + case.transport;
    let length = frame.length();
    if length <= SYN_FRAME as u32 && frame.copy(length, &mut notice.frame) {
        notice.length = length;
        entry.submit(0);
        maps::count(Counter::Held);
        return true;
    }
    entry.discard(0);
    maps::count(Counter::NoticesLost);
    false
}

/// Hands a datagram over. One that is too long, or several in one, is lost; its flow is asked for all the same.
#[inline(never)]
pub(crate) fn hold_datagram<const LINK: usize>(
    frame: &Frame<'_, LINK>,
    case: &Case,
    route: &RouteKey,
) -> bool {
    let Some(mut entry) = maps::DATAGRAMS.reserve(0) else {
        maps::count(Counter::NoticesLost);
        return false;
    };
    // SAFETY: as above.
    let held = unsafe { &mut *entry.as_mut_ptr() };
    head(&mut held.notice, case, route, Asks::Hold);
    held.notice.device = frame.device();
    held.notice.network = LINK as u32;
    held.notice.transport = LINK as u32 + case.transport;
    let length = frame.length();
    if length <= DATAGRAM_FRAME as u32 && !frame.is_bundle() && frame.copy(length, &mut held.frame) {
        held.notice.length = length;
        maps::count(Counter::Held);
    } else {
        maps::count(Counter::NoticesLost);
    }
    entry.submit(0);
    true
}
