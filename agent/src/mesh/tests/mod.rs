//! The protocol on real loopback connections with real certificates. Only the kernel's tables and the node around are in
//! memory.

mod flows;
mod handshake;
mod hostile;
mod life;
mod links;
mod server;
mod tools;
