//! The harness of the whole-system tests: real cgroups, real network namespaces, real sockets, the real agent.
//!
//! Every fixture is a guard: what it made is gone when it is dropped, and it ends only processes that it started.
//! Names carry the number of the test process and a counter, so that tests run in parallel and beside another agent.
//!
//! In reading order:
//! * [`root`]: who may run these tests, and unique names.
//! * [`cgroup`], [`netns`]: the places where a workload lives.
//! * [`probe`]: what a workload can be asked to do. The program behind it is `waxseal-probe`.
//! * [`node`], [`tap`]: an agent, its files, what it says.
//! * [`stage`]: all of it put together for one test.
//! * [`packet`]: packets that no honest kernel would send.
//! * [`network`]: places for several nodes, joined by a router.
//! * [`authority`], [`mesh`]: several nodes that trust one authority.
//! * [`capture`], [`middle`]: whoever stands between two nodes, sees each frame and changes it.

#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a fixture that cannot be made must stop its test and say why")]

pub mod authority;
pub mod capture;
pub mod cgroup;
pub mod mesh;
pub mod middle;
pub mod netns;
pub mod network;
pub mod node;
pub mod packet;
pub mod probe;
pub mod root;
pub mod stage;
pub mod tap;
