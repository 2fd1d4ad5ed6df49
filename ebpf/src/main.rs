//! The kernel programs: one object, one file per hook.
//!
//! A hook gathers (`ctx`, `owner`), asks `waxseal_common::verdict::decide` through `judge`, and tells (`emit`). It never
//! decides by itself.

#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value that is lent is not copied, and the stack has no room for copies"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the attribute macros hand each program its context by value"
)]

mod callback;
mod case;
mod ctx;
mod emit;
mod flow;
mod frame;
mod hooks;
mod judge;
mod kernel;
mod maps;
mod notice;
mod owner;
mod packet;
mod reset;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some of its helpers only to programs that say this.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
