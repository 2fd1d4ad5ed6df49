//! Which documents are read, and by whom: every `apiVersion` with its kinds.

use crate::nearest::nearest;

/// What reads a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    IdentityPolicy,
    Workload,
    Namespace,
    Mesh,
    AuthorizationPolicy,
    PeerAuthentication,
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
    NetworkPolicy,
    /// The namespace of a cluster: tells the labels of a namespace.
    ClusterNamespace,
    /// Other documents.
    List,
    /// Stands beside policies in rendered charts and says nothing about connections.
    NotAPolicy,
}

type Kinds = &'static [(&'static str, Kind)];

const NATIVE: Kinds = &[
    ("IdentityPolicy", Kind::IdentityPolicy),
    ("Workload", Kind::Workload),
    ("Namespace", Kind::Namespace),
    ("Mesh", Kind::Mesh),
];
const ISTIO: Kinds = &[
    ("AuthorizationPolicy", Kind::AuthorizationPolicy),
    ("PeerAuthentication", Kind::PeerAuthentication),
    ("AuthorizationPolicyList", Kind::List),
    ("PeerAuthenticationList", Kind::List),
];
const CILIUM: Kinds = &[
    ("CiliumNetworkPolicy", Kind::CiliumNetworkPolicy),
    ("CiliumClusterwideNetworkPolicy", Kind::CiliumClusterwideNetworkPolicy),
    ("CiliumNetworkPolicyList", Kind::List),
    ("CiliumClusterwideNetworkPolicyList", Kind::List),
];
const NETWORKING: Kinds = &[
    ("NetworkPolicy", Kind::NetworkPolicy),
    ("NetworkPolicyList", Kind::List),
    ("Ingress", Kind::NotAPolicy),
    ("IngressClass", Kind::NotAPolicy),
];
const CORE: Kinds = &[
    ("List", Kind::List),
    ("Namespace", Kind::ClusterNamespace),
    ("NamespaceList", Kind::List),
    ("ConfigMap", Kind::NotAPolicy),
    ("PersistentVolumeClaim", Kind::NotAPolicy),
    ("Pod", Kind::NotAPolicy),
    ("Secret", Kind::NotAPolicy),
    ("Service", Kind::NotAPolicy),
    ("ServiceAccount", Kind::NotAPolicy),
];
const APPS: Kinds = &[
    ("DaemonSet", Kind::NotAPolicy),
    ("Deployment", Kind::NotAPolicy),
    ("ReplicaSet", Kind::NotAPolicy),
    ("StatefulSet", Kind::NotAPolicy),
];
const BATCH: Kinds = &[("CronJob", Kind::NotAPolicy), ("Job", Kind::NotAPolicy)];
const RBAC: Kinds = &[
    ("ClusterRole", Kind::NotAPolicy),
    ("ClusterRoleBinding", Kind::NotAPolicy),
    ("Role", Kind::NotAPolicy),
    ("RoleBinding", Kind::NotAPolicy),
];
const SCALING: Kinds = &[("HorizontalPodAutoscaler", Kind::NotAPolicy)];
const DISRUPTION: Kinds = &[("PodDisruptionBudget", Kind::NotAPolicy)];

/// Every version that is read; those that hold policies first. A version or kind that is not here is a mistake: one
/// letter may be all that is between a document that is ignored and one that protects.
const VERSIONS: [(&str, Kinds); 11] = [
    (super::schema::API_VERSION, NATIVE),
    ("security.istio.io/v1", ISTIO),
    ("security.istio.io/v1beta1", ISTIO),
    ("cilium.io/v2", CILIUM),
    ("networking.k8s.io/v1", NETWORKING),
    ("v1", CORE),
    ("apps/v1", APPS),
    ("batch/v1", BATCH),
    ("rbac.authorization.k8s.io/v1", RBAC),
    ("autoscaling/v2", SCALING),
    ("policy/v1", DISRUPTION),
];
/// How many of them hold policies.
const WITH_POLICIES: usize = 5;

/// The versions that hold policies, for a message.
pub(super) fn versions() -> Vec<&'static str> {
    VERSIONS.iter().take(WITH_POLICIES).map(|(version, _)| *version).collect()
}

/// The version that was probably meant: another of the same group, or one that is spelled alike.
pub(super) fn near(text: &str) -> Option<&'static str> {
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    let same = |version: &&str| group(text).is_some() && group(version) == group(text);
    versions().into_iter().find(same).or_else(|| nearest(text, versions()))
}

/// The version that has a policy of this kind.
pub(super) fn home(kind: &str) -> Option<&'static str> {
    let with_policies = VERSIONS.iter().take(WITH_POLICIES);
    let mut homes = with_policies.filter(|(_, kinds)| kinds.iter().any(|(name, _)| *name == kind));
    homes.next().map(|(version, _)| *version)
}

/// A version that is read, and its kinds.
pub(super) fn version(text: &str) -> Option<(&'static str, Kinds)> {
    VERSIONS.iter().find(|(version, _)| *version == text).copied()
}

/// The names of kinds, for a message.
pub(super) fn names(kinds: Kinds) -> Vec<&'static str> {
    kinds.iter().map(|(name, _)| *name).collect()
}
