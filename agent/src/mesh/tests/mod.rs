//! The protocol on real loopback connections with real certificates.
