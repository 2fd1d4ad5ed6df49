//! Who a source is, in the words of Istio.

use serde_saphyr::Location;

use super::foreign::Object;
use super::node::Node;
use crate::escape::escape;
use crate::policy::clause::Test;
use crate::policy::error::Problem;
use crate::policy::pattern::{IdentityPattern, PatternError, TextPattern, check_characters};
use crate::policy::reader::Reader;
use crate::policy::set::AddressRange;
use crate::spiffe::SpiffeId;

const SCHEME: &str = "spiffe://";

impl Reader<'_> {
    /// SPIFFE IDs without their scheme: exact, `prefix*`, `*suffix` or `*`.
    pub(crate) fn principals(&mut self, node: &Node) -> Option<Vec<Test>> {
        let texts = self.texts(node)?;
        Some(texts.into_iter().filter_map(|(text, place)| self.principal(text, place)).collect())
    }

    fn principal(&mut self, text: &str, place: Location) -> Option<Test> {
        let bare = match text.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => {
                let written = escape(text);
                self.warn(
                    place,
                    "spiffe-scheme",
                    format!("`{written}`: Istio writes principals without `spiffe://`, and would match nobody; here it is left out"),
                );
                &text[SCHEME.len()..]
            }
            _ => text,
        };
        match pattern(bare) {
            Ok(pattern) => Some(Test::Identity(pattern)),
            Err(source) => self.refuse(place, Problem::Principal { text: escape(text).into_owned(), source }),
        }
    }

    /// Namespaces of SPIFFE IDs.
    pub(crate) fn path_namespaces(&mut self, node: &Node) -> Option<Vec<Test>> {
        let texts = self.texts(node)?;
        let read = |(text, place): (&str, Location)| match TextPattern::parse(text) {
            Ok(pattern) => Some(Test::PathNamespace(pattern)),
            Err(error) => self.refuse(place, error.into()),
        };
        Some(texts.into_iter().filter_map(read).collect())
    }

    /// `namespace/account`, or the account alone for one of the document's namespace; in this node's trust domain.
    pub(crate) fn service_accounts(&mut self, node: &Node, namespace: &str) -> Option<Vec<Test>> {
        let texts = self.texts(node)?;
        let read = |(text, place): (&str, Location)| {
            let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
            match SpiffeId::for_workload(self.trust_domain, namespace, account) {
                Ok(id) => Some(Test::Identity(IdentityPattern::Exact(id))),
                Err(source) => {
                    let text = escape(text).into_owned();
                    self.refuse(place, Problem::ServiceAccount { text, source })
                }
            }
        };
        Some(texts.into_iter().filter_map(read).collect())
    }

    /// Addresses and ranges of them.
    pub(crate) fn blocks(&mut self, node: &Node) -> Option<Vec<AddressRange>> {
        let texts = self.texts(node)?;
        Some(texts.into_iter().filter_map(|(text, place)| self.range_of(text, place)).collect())
    }

    /// Says that a negative condition is also true of sources that have proved nothing.
    pub(crate) fn warn_negative(&mut self, object: &Object<'_>, keys: &[&'static str]) {
        if let Some((key, place)) = object.among(keys).first() {
            let text = format!(
                "`{key}` is also true of a source without a proven identity, as in Istio; add `principals: [\"*\"]` if that \
                 is not meant"
            );
            self.warn(*place, "matches-unauthenticated", text);
        }
    }
}

fn pattern(text: &str) -> Result<IdentityPattern, PatternError> {
    if text.is_empty() || text == "**" {
        return Err(PatternError::Empty);
    }
    if text.starts_with('*') {
        return IdentityPattern::parse(text);
    }
    match text.strip_suffix('*') {
        Some(prefix) => {
            check_characters(prefix)?;
            Ok(IdentityPattern::Prefix(format!("{SCHEME}{prefix}")))
        }
        None => IdentityPattern::parse(&format!("{SCHEME}{text}")),
    }
}
