//! The policy language: documents, what they mean, and the tables they become.
//!
//! Owns the YAML documents ([`load`]), their resolved form ([`PolicySet`]), the compilation to tables ([`Compiler`]), the
//! way from one set of tables to the next ([`plan`]), and the tools that explain all this ([`explain`], [`check`]).
//! Never touches a map, a socket or a clock. A verdict is made only by [`waxseal_common::verdict::decide`]; the
//! [`mod@reference`] evaluator says the same without tables, so that tests can compare the two.

mod addresses;
mod bind;
mod by_namespace;
mod cases;
mod check;
mod classes;
mod clause;
mod compile;
mod compiled;
mod condition;
mod describe;
mod digest;
mod ends;
mod error;
mod explain;
mod explain_text;
mod gather;
mod imagined;
mod import;
mod intern;
mod kinds;
mod library;
mod lint;
mod load;
mod modes;
mod pattern;
mod people;
mod plan;
mod ports;
mod prepare;
mod read_policy;
mod read_workload;
mod reader;
pub mod reference;
mod reference_ends;
mod rows;
mod schema;
mod set;
mod stream;
mod subject;
#[cfg(test)]
mod tests;
mod warning;
mod yaml_problem;

/// The JSON Schema of the native documents.
pub const SCHEMA: &str = include_str!("schema.json");

pub use cases::{CaseOutcome, CasesReport, check_cases, check_cases_text};
pub use check::{CheckOptions, CheckReport, DocumentReport, Sizes, check, check_set, check_with};
pub use clause::{Clause, NamespaceLabel, Target, Test, Tests};
pub use compile::{CompileError, Compiler};
pub use compiled::{Compiled, Prefix, RuleDirection, RuleInfo};
pub use error::{Excerpt, LoadError, LoadErrors, Problem, YamlProblem};
pub use explain::{ExplainError, Explanation, Side, Step, explain, verdict_word};
pub use imagined::expected_identities;
pub use library::Library;
pub use load::{MAX_FILE_BYTES, MAX_FILES, Ownership, load, load_from, parse, parse_all};
pub use modes::{ModeFrom, mode_of};
pub use pattern::{IdentityPattern, PatternError, TextPattern};
pub use plan::{Capacity, Change, Pinned, Plan, PlanError, plan};
pub use ports::{PackedSet, Ports, PortsError};
pub use set::{
    Action, AddressRange, Entity, Fields, IdentityPolicy, Mesh, MeshPeer, Namespace, NodeDefaults, Peer,
    PolicySet, Posture, Refuse, Rule, Silent, direction_word,
};
pub use warning::Warning;
