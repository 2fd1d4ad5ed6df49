//! Reads an `IdentityPolicy`.

use serde_saphyr::Spanned;

use super::clause::Target;
use super::error::Problem;
use super::pattern::IdentityPattern;
use super::ports::Ports;
use super::reader::{Reader, shown};
use super::schema::{
    Document, EgressRule, IngressRule, LabelMap, Namespaced, NotSpec, PeerSpec, PolicySpec, Text,
};
use super::set::{Action, AddressRange, Entity, Fields, IdentityPolicy, Peer, Posture, Rule};
use crate::workload::{Labels, Origin};

/// The longest name of a rule, in characters.
const MAX_RULE_NAME: usize = 128;

/// What a rule of either direction holds.
struct RuleParts {
    name: Option<Text>,
    action: Option<Text>,
    peers: Option<Vec<Spanned<PeerSpec>>>,
    ports: Option<Vec<Text>>,
}

/// What a peer and its `not` both hold.
struct FieldTexts {
    identity: Option<Text>,
    trust_domain: Option<Text>,
    namespace: Option<Text>,
    labels: Option<LabelMap>,
    cidr: Option<Text>,
    except: Option<Spanned<Vec<Text>>>,
    entity: Option<Text>,
}

impl Reader<'_> {
    pub(super) fn policy(&mut self, origin: Origin) -> Option<IdentityPolicy> {
        let Document { metadata, spec, .. } = self.parse::<Document<Namespaced, PolicySpec>>()?;
        let PolicySpec { selector, mode, ingress, egress } = spec;
        let mode = self.mode(mode.as_ref());
        let selector = selector.map(|labels| self.labels(&labels)).unwrap_or_default();
        let ingress = ingress.map(|rules| {
            self.rules(rules, |IngressRule { name, action, from, ports }| RuleParts {
                name,
                action,
                peers: from,
                ports,
            })
        });
        let egress = egress.map(|rules| {
            self.rules(rules, |EgressRule { name, action, to, ports }| RuleParts {
                name,
                action,
                peers: to,
                ports,
            })
        });
        let name = self.name(&metadata.name);
        let namespace = self.namespace_name(metadata.namespace.as_ref());
        let (namespace, name) = (namespace?, name?);
        Some(IdentityPolicy {
            kind: "IdentityPolicy",
            part: 0,
            target: Target { namespace: Some(namespace.clone()), labels: selector, clauses: Vec::new() },
            except: Vec::new(),
            posture: Posture::default(),
            namespace,
            name,
            mode,
            ingress,
            egress,
            origin,
        })
    }

    fn rules<T>(&mut self, rules: Vec<Spanned<T>>, parts: impl Fn(T) -> RuleParts) -> Vec<Rule> {
        rules
            .into_iter()
            .map(|rule| {
                let origin = self.origin(rule.referenced);
                self.rule(parts(rule.value), origin)
            })
            .collect()
    }

    fn rule(&mut self, parts: RuleParts, origin: Origin) -> Rule {
        let RuleParts { name, action, peers, ports } = parts;
        let actions = [("allow", Action::Allow), ("deny", Action::Deny)];
        Rule {
            name: name.and_then(|name| self.rule_name(&name)),
            action: action.and_then(|text| self.word(&text, "action", &actions)).unwrap_or(Action::Allow),
            peers: peers.map(|peers| self.peers(peers)),
            ports: ports.map(|ports| self.ports(&ports)),
            origin,
        }
    }

    /// A rule's name only has to be safe to show; `#` is left to the rules without a name.
    fn rule_name(&mut self, text: &Text) -> Option<String> {
        let name = text.value.as_str();
        let plain = name.chars().all(|c| c.is_ascii_graphic() && c != '#' || c == ' ');
        if plain && !name.trim().is_empty() && name.len() <= MAX_RULE_NAME {
            return Some(name.to_owned());
        }
        self.refuse(text.referenced, Problem::RuleName(shown(text)))
    }

    fn ports(&mut self, ports: &[Text]) -> Vec<Ports> {
        ports.iter().filter_map(|text| self.parsed(text, Ports::parse)).flatten().collect()
    }

    /// Not collected: that would put them into the place of what was read, which is many times as large, and each list would
    /// stay with a hole behind it.
    fn peers(&mut self, peers: Vec<Spanned<PeerSpec>>) -> Vec<Peer> {
        let mut found = Vec::with_capacity(peers.len());
        for peer in peers {
            found.extend(self.peer(peer));
        }
        found
    }

    fn peer(&mut self, peer: Spanned<PeerSpec>) -> Option<Peer> {
        let (place, mistakes) = (peer.referenced, self.errors.len());
        let PeerSpec { identity, trust_domain, namespace, labels, cidr, except, entity, not } = peer.value;
        let is = self.fields(FieldTexts { identity, trust_domain, namespace, labels, cidr, except, entity });
        let not = match not {
            None => None,
            Some(not) => {
                let place = not.referenced;
                let NotSpec { identity, trust_domain, namespace, labels, cidr, except, entity } = not.value;
                let not = self.fields(FieldTexts {
                    identity,
                    trust_domain,
                    namespace,
                    labels,
                    cidr,
                    except,
                    entity,
                });
                if not.is_empty() && self.errors.len() == mistakes {
                    self.refuse(place, Problem::EmptyNot)?;
                }
                Some(not).filter(|not| !not.is_empty()).map(Box::new)
            }
        };
        if is.is_empty() && not.is_none() && self.errors.len() == mistakes {
            self.refuse(place, Problem::EmptyPeer)?;
        }
        Some(Peer { is, not, clauses: Box::default(), origin: self.origin(place) })
    }

    fn fields(&mut self, texts: FieldTexts) -> Fields {
        let FieldTexts { identity, trust_domain, namespace, labels, cidr, except, entity } = texts;
        Fields {
            identity: identity.and_then(|text| self.parsed(&text, IdentityPattern::parse)).map(Box::new),
            trust_domain: trust_domain
                .and_then(|text| self.parsed(&text, str::parse::<crate::spiffe::TrustDomain>)),
            namespace: namespace.and_then(|text| self.name(&text)).map(String::into_boxed_str),
            labels: labels.and_then(|labels| self.peer_labels(&labels)),
            range: self.range(cidr, except),
            entity: entity.and_then(|text| self.word(&text, "entity", &Entity::WORDS)),
        }
    }

    fn peer_labels(&mut self, labels: &LabelMap) -> Option<Labels> {
        if labels.value.is_empty() {
            return self.refuse(labels.referenced, Problem::EmptyPeerLabels);
        }
        Some(self.labels(labels))
    }

    fn range(&mut self, cidr: Option<Text>, except: Option<Spanned<Vec<Text>>>) -> Option<AddressRange> {
        let Some(cidr) = cidr else {
            return except.and_then(|except| self.refuse(except.referenced, Problem::ExceptWithoutCidr));
        };
        let cidr = self.cidr(&cidr)?;
        let mut holes = Vec::new();
        for text in except.map(|except| except.value).unwrap_or_default() {
            let Some(hole) = self.cidr(&text) else { continue };
            if !super::addresses::covers(cidr, hole) {
                let _none: Option<()> = self.refuse(text.referenced, Problem::ExceptOutside { hole, cidr });
            }
            holes.push(hole);
        }
        Some(AddressRange { cidr, except: holes.into() })
    }
}
