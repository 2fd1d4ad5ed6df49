//! The kernel programs: one object, one file per hook.
//!
//! A hook gathers (`ctx`, `owner`), asks `waxseal_common::verdict::decide` through `judge`, and tells (`emit`). It never
//! decides by itself.

#![no_std]
#![no_main]

mod case;
mod ctx;
mod emit;
mod hooks;
mod judge;
mod kernel;
mod maps;
mod owner;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some of its helpers only to programs that say this.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
