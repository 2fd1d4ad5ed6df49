//! Lets aya copy these types into and out of maps. Only types that zerocopy has shown to be free of padding are here.

#![allow(unsafe_code, reason = "aya::Pod is an unsafe trait; the bound below is the proof")]

use zerocopy::{FromBytes, Immutable, IntoBytes};

const fn proven<T: FromBytes + IntoBytes + Immutable>() {}

macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        const _: () = proven::<$type>();
        // SAFETY: the line above compiles only for types without padding that are valid for every bit pattern.
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(
    crate::address::Address,
    crate::ids::CgroupId,
    crate::ids::IdentityId,
    crate::state::Connection,
    crate::state::Endpoint,
    crate::state::Keys,
    crate::state::Opener,
    crate::state::Pending,
    crate::state::Process,
    crate::state::Settings,
    crate::state::Tuple,
    crate::state::UdpFlow,
    crate::tables::AddressEntry,
    crate::tables::IdentityEntry,
    crate::tables::PortSet,
    crate::tables::RowEntry,
    crate::tables::RowKey,
    crate::wire::Announced,
    crate::wire::Arrival,
    crate::wire::Route,
    crate::wire::RouteKey,
    crate::wire::Session,
    crate::wire::Spi,
);
