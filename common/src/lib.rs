//! What the kernel programs and the agent both mean.
//!
//! No I/O, no allocation, no clock, no strings: every function here is pure and is called by a kernel hook and by
//! host tests alike. Every type that crosses the border is a padding-free zerocopy type and is defined only here.
//!
//! In reading order:
//! * [`ids`]: numbers with a meaning: identities, rules, revisions, cgroups.
//! * [`address`]: an IP address as sixteen bytes.
//! * [`packet`]: IP, TCP and UDP heads out of bytes.
//! * [`seal`]: the TCP option that says who opened a connection, and its MAC.
//! * [`wire`]: what it becomes between nodes, and the sessions that make it.
//! * [`tables`]: the compiled policy, as the maps hold it.
//! * [`verdict`]: [`verdict::decide`], the only place where a verdict is made.
//! * [`state`]: endpoints, connections, flows and settings, as the maps hold them.
//! * [`flow`]: what the kernel says about one decision.

#![no_std]
#![warn(missing_docs)]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod address;
pub mod flow;
pub mod ids;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod seal;
pub mod state;
pub mod tables;
pub mod verdict;
pub mod wire;

/// Version of the map layouts. Part of the pin directory's name: an agent never reuses maps of another layout.
pub const LAYOUT: u32 = 2;
