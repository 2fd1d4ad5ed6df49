//! What `waxseal doctor` found out about the host, one line a fact.

use serde::{Deserialize, Serialize};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with a limit that the detail names.
    Warn,
    /// Enforcing is refused until this is cured.
    Fail,
}

impl Status {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One fact about the host and what to do when it is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, in lower case: `cgroup v2`, `kernel BTF`.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found. Foreign text in it is escaped already.
    pub detail: String,
    /// What to do or to type, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cure: Option<String>,
}

impl Check {
    /// A check that found nothing wrong.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, detail: detail.into(), cure: None }
    }

    /// A check that found a limit, and what lifts it.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Warn, detail: detail.into(), cure: Some(cure.into()) }
    }

    /// A check that found what keeps the agent from enforcing, and what cures it.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Fail, detail: detail.into(), cure: Some(cure.into()) }
    }
}

/// The worst of several checks; nothing checked is nothing wrong.
pub fn worst(checks: &[Check]) -> Status {
    checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_outweighs_any_number_of_good_news() {
        let [ok, warn, fail] = [Check::ok("a", "b"), Check::warn("a", "b", "c"), Check::fail("a", "b", "c")];
        assert_eq!(worst(&[]), Status::Ok);
        assert_eq!(worst(&[ok.clone(), warn.clone(), ok.clone()]), Status::Warn);
        assert_eq!(worst(&[ok, fail, warn]), Status::Fail);
    }
}
