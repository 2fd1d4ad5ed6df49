//! The oracle's own view of ends: which tests, fields and ranges hold for them. Shares no code with the compiler.

use std::net::IpAddr;

use waxseal_common::ids::IdentityId;

use super::clause::Test;
use super::pattern::IdentityPattern;
use super::set::{AddressRange, Entity, Fields};
use crate::cidr::Cidr;
use crate::workload::IdentityInfo;

/// Whether one test of a clause holds for an end.
pub(super) fn test_met(test: &Test, id: IdentityId, info: Option<&IdentityInfo>) -> bool {
    let Some(workload) = info else {
        return match test {
            Test::Entity(entity) => entity_met(*entity, id, info),
            _ => false,
        };
    };
    let text = workload.spiffe_id.as_str().strip_prefix("spiffe://").unwrap_or_default();
    let parts: Vec<&str> = text.split('/').collect();
    let kubernetes = match parts.as_slice() {
        [_, "ns", namespace, "sa", account] => Some((*namespace, *account)),
        _ => None,
    };
    match test {
        Test::Identity(pattern) => pattern_matches(pattern, workload.spiffe_id.as_str()),
        Test::TrustDomain(domain) => parts.first() == Some(&domain.as_str()),
        Test::PathNamespace(pattern) => {
            kubernetes.is_some_and(|(namespace, _)| star_matches(&pattern.to_string(), namespace))
        }
        Test::ServiceAccount(name) => kubernetes.is_some_and(|(_, account)| account == name),
        Test::Namespace(namespace) => workload.namespace == *namespace,
        Test::Label { key, values } => match (workload.labels.get(key), values) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(values)) => values.iter().any(|wanted| wanted == value),
        },
        Test::Entity(entity) => entity_met(*entity, id, info),
        Test::NamespaceLabels { .. } => false,
    }
}

pub(super) fn entity_met(entity: Entity, id: IdentityId, info: Option<&IdentityInfo>) -> bool {
    match entity {
        Entity::Any => true,
        Entity::AnyAuthenticated => info.is_some(),
        Entity::Host => id == IdentityId::HOST,
        Entity::World => id == IdentityId::WORLD,
        Entity::Unmanaged => id == IdentityId::UNMANAGED,
    }
}

/// For each field about the identity that is given: whether it holds.
pub(super) fn asked(fields: &Fields, id: IdentityId, info: Option<&IdentityInfo>) -> [Option<bool>; 5] {
    let of_workload = |test: &dyn Fn(&IdentityInfo) -> bool| info.is_some_and(test);
    [
        fields
            .identity
            .as_ref()
            .map(|pattern| of_workload(&|w| pattern_matches(pattern, w.spiffe_id.as_str()))),
        fields.trust_domain.as_ref().map(|domain| {
            let prefix = format!("spiffe://{domain}/");
            of_workload(&|w| w.spiffe_id.as_str().starts_with(&prefix))
        }),
        fields.namespace.as_ref().map(|namespace| of_workload(&|w| *w.namespace == **namespace)),
        fields.labels.as_ref().map(|labels| {
            of_workload(&|w| labels.iter().all(|(key, value)| w.labels.get(key).is_some_and(|v| v == value)))
        }),
        fields.entity.map(|entity| entity_met(entity, id, info)),
    ]
}

pub(super) fn pattern_matches(pattern: &IdentityPattern, id: &str) -> bool {
    // A suffix is about the ID without its scheme.
    let text =
        if matches!(pattern, IdentityPattern::Suffix(_)) { id.trim_start_matches("spiffe://") } else { id };
    star_matches(&pattern.to_string(), text)
}

pub(super) fn star_matches(pattern: &str, id: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => id.ends_with(suffix),
        (None, Some(prefix)) => id.starts_with(prefix),
        (None, None) => pattern == id,
    }
}

pub(super) fn in_range(range: &AddressRange, ip: IpAddr) -> bool {
    in_cidr(range.cidr, ip) && !range.except.iter().any(|hole| in_cidr(*hole, ip))
}

/// Families never mix: `::/0` is every IPv6 address, `0.0.0.0/0` every IPv4 address.
pub(super) fn in_cidr(cidr: Cidr, ip: IpAddr) -> bool {
    let text = cidr.to_string();
    let Some((base, length)) = text.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    match (base, ip.to_canonical()) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            (u32::from(base) ^ u32::from(ip)).checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            (u128::from(base) ^ u128::from(ip)).checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}
