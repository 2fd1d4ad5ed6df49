//! The sizes that both sides of the border have agreed on. Whoever changes one raises `LAYOUT`, so that no agent takes over
//! maps that mean something else.

use std::mem::size_of;

use waxseal_common::LAYOUT;
use waxseal_common::flow::{CgroupEvent, FlowEvent, SealState};
use waxseal_common::seal::{OPTION_LENGTH, SealOption};
use waxseal_common::state::{
    Connection, Counter, Endpoint, Keys, Opener, Pending, Process, Settings, Tuple, UdpFlow,
};
use waxseal_common::tables::{AddressEntry, IdentityEntry, PortSet, RowEntry, RowKey, Subject};
use waxseal_common::wire::{Announced, Arrival, Failure, HeldDatagram, Notice, Route, RouteKey, Session};

#[test]
fn the_layout_is_the_one_that_its_number_stands_for() {
    assert_eq!(LAYOUT, 2);
    let sizes = [
        ("Announced", size_of::<Announced>(), 16),
        ("Arrival", size_of::<Arrival>(), 32),
        ("HeldDatagram", size_of::<HeldDatagram>(), 2384),
        ("Notice", size_of::<Notice>(), 336),
        ("Route", size_of::<Route>(), 64),
        ("RouteKey", size_of::<RouteKey>(), 24),
        ("Session", size_of::<Session>(), 64),
        ("AddressEntry", size_of::<AddressEntry>(), 24),
        ("CgroupEvent", size_of::<CgroupEvent>(), 280),
        ("Connection", size_of::<Connection>(), 128),
        ("Endpoint", size_of::<Endpoint>(), 8),
        ("FlowEvent", size_of::<FlowEvent>(), 176),
        ("IdentityEntry", size_of::<IdentityEntry>(), 96),
        ("Keys", size_of::<Keys>(), 16),
        ("Opener", size_of::<Opener>(), 48),
        ("Pending", size_of::<Pending>(), 48),
        ("PortSet", size_of::<PortSet>(), 1040),
        ("Process", size_of::<Process>(), 20),
        ("RowEntry", size_of::<RowEntry>(), 16),
        ("RowKey", size_of::<RowKey>(), 12),
        ("Settings", size_of::<Settings>(), 32),
        ("Subject", size_of::<Subject>(), 20),
        ("Tuple", size_of::<Tuple>(), 40),
        ("UdpFlow", size_of::<UdpFlow>(), 120),
    ];
    let changed: Vec<_> = sizes.iter().filter(|(_, size, agreed)| size != agreed).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn the_seal_is_as_long_as_it_says() {
    assert_eq!(size_of::<SealOption>(), usize::from(OPTION_LENGTH));
}

#[test]
fn every_counter_has_its_place_and_its_word() {
    assert_eq!(Counter::ALL.len(), Counter::COUNT as usize);
    for (place, counter) in Counter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, place);
        assert!(!counter.as_str().is_empty());
    }
}

#[test]
fn every_number_has_its_word() {
    for (place, state) in SealState::ALL.iter().enumerate() {
        assert_eq!(*state as usize, place);
        assert_eq!(SealState::from_byte(place as u8), Some(*state));
    }
    assert!(Failure::ALL.len() <= 16, "a connection keeps it in four bits");
    for (place, failure) in Failure::ALL.iter().enumerate() {
        assert_eq!(*failure as usize, place);
        assert_eq!(Failure::from_byte(place as u8), Some(*failure));
    }
}
