//! The CA server's client.

/// Why the CA server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {}
