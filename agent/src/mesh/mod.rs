//! Between nodes: pair handshakes, sessions, links.
