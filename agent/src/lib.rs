//! The Waxseal node agent.
//!
//! Layers, arrows only downwards; modules of one row never import each other and meet in [`node`]:
//!
//! ```text
//! cli → node → { api, datapath, history, mesh, metrics, watch } → identity → attest → { cgroup, pki, policy, flows, config }
//!            → { spiffe, workload, cidr, escape, report } → waxseal_common
//! ```

#![deny(unsafe_code)]

pub mod api;
pub mod attest;
pub mod cgroup;
pub mod cidr;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod escape;
pub mod flows;
pub mod history;
pub mod identity;
pub mod mesh;
pub mod metrics;
mod nearest;
pub mod node;
pub mod pki;
pub mod policy;
pub mod report;
pub mod spiffe;
pub mod watch;
pub mod workload;
