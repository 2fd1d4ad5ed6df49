//! The documents as they are written. Nothing is interpreted here beyond "this key, this shape": an unknown key, a key
//! given twice or a missing one ends the document, and a key without a value never counts as an absent one.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

pub(super) const API_VERSION: &str = "waxseal.dev/v1alpha1";

/// A text with its place.
pub(super) type Text = Spanned<String>;
/// Labels with their place.
pub(super) type LabelMap = Spanned<BTreeMap<String, String>>;

/// A key that may be left out, but not left empty: `from:` alone must not mean "from everybody".
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// What says how to read the rest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    #[serde(default, deserialize_with = "present")]
    pub(super) api_version: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) kind: Option<Text>,
}

/// One whole document of a kind whose metadata and spec are known.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document<M, S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(super) metadata: M,
    pub(super) spec: S,
}

/// The name of an object that lives in a namespace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespaced {
    pub(super) name: Text,
    #[serde(default, deserialize_with = "present")]
    pub(super) namespace: Option<Text>,
    #[serde(default, rename = "labels")]
    _labels: Option<IgnoredAny>,
    #[serde(default, rename = "annotations")]
    _annotations: Option<IgnoredAny>,
}

/// The name of an object that does not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: Text,
    #[serde(default, deserialize_with = "present")]
    pub(super) labels: Option<LabelMap>,
    #[serde(default, rename = "annotations")]
    _annotations: Option<IgnoredAny>,
}

/// The name and the labels of a workload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Labelled {
    pub(super) name: Text,
    #[serde(default, deserialize_with = "present")]
    pub(super) namespace: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) labels: Option<LabelMap>,
    #[serde(default, rename = "annotations")]
    _annotations: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicySpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) selector: Option<LabelMap>,
    #[serde(default, deserialize_with = "present")]
    pub(super) mode: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) ingress: Option<Vec<Spanned<IngressRule>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) egress: Option<Vec<Spanned<EgressRule>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IngressRule {
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) action: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) from: Option<Vec<Spanned<PeerSpec>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) ports: Option<Vec<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EgressRule {
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) action: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) to: Option<Vec<Spanned<PeerSpec>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) ports: Option<Vec<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PeerSpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) identity: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) trust_domain: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) namespace: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) labels: Option<LabelMap>,
    #[serde(default, deserialize_with = "present")]
    pub(super) cidr: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) except: Option<Spanned<Vec<Text>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) entity: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) not: Option<Spanned<NotSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NotSpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) identity: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) trust_domain: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) namespace: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) labels: Option<LabelMap>,
    #[serde(default, deserialize_with = "present")]
    pub(super) cidr: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) except: Option<Spanned<Vec<Text>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) entity: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadSpec {
    pub(super) selector: Spanned<SelectorSpec>,
    #[serde(default, deserialize_with = "present")]
    pub(super) spiffe_id: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) mode: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SelectorSpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) systemd_unit: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) cgroup: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) container: Option<Spanned<ContainerSpec>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) uid: Option<u32>,
    #[serde(default, deserialize_with = "present")]
    pub(super) executable: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainerSpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) image: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) labels: Option<LabelMap>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NamespaceSpec {
    #[serde(default, deserialize_with = "present")]
    pub(super) mode: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) default_deny: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    pub(super) refuse: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeshSpec {
    pub(super) cidrs: Vec<Text>,
    #[serde(default, deserialize_with = "present")]
    pub(super) peers: Option<Vec<MeshPeerSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MeshPeerSpec {
    pub(super) cidr: Text,
    #[serde(default, deserialize_with = "present")]
    pub(super) via: Option<Text>,
}
