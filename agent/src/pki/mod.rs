//! Certificates: the authority, the verifier, and the identities of this node with their keys.
