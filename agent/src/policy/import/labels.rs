//! Label selectors of Kubernetes: `matchLabels` and `matchExpressions`.

use serde_saphyr::Location;

use super::node::Node;
use crate::policy::clause::{Clause, Test};
use crate::policy::error::Problem;
use crate::policy::reader::Reader;

/// One thing that a selector asks of labels.
#[derive(Clone, Debug)]
pub(crate) struct Requirement<'n> {
    pub(crate) key: &'n str,
    /// The values it may have; `None` is any.
    pub(crate) values: Option<Vec<String>>,
    /// Whether the answer is turned round.
    pub(crate) negated: bool,
    /// Where the key is written.
    pub(crate) place: Location,
}

impl Requirement<'_> {
    /// As a condition on the labels of a workload.
    pub(crate) fn clause(&self, key: &str) -> Clause {
        let test = Test::Label { key: key.to_owned(), values: self.values.clone() };
        if self.negated { Clause::none(vec![test]) } else { Clause::any(vec![test]) }
    }

    /// The value, when exactly one is asked for.
    pub(crate) fn exact(&self) -> Option<&str> {
        match self.values.as_deref() {
            Some([value]) if !self.negated => Some(value),
            _ => None,
        }
    }
}

/// Whether the operator needs values, and whether it turns the answer round.
const OPERATORS: [(&str, (&str, bool, bool)); 4] = [
    ("In", ("In", true, false)),
    ("NotIn", ("NotIn", true, true)),
    ("Exists", ("Exists", false, false)),
    ("DoesNotExist", ("DoesNotExist", false, true)),
];

impl Reader<'_> {
    /// Everything that a selector asks; empty when it selects everything.
    pub(crate) fn requirements<'n>(&mut self, node: &'n Node) -> Option<Vec<Requirement<'n>>> {
        let object = self.object(node, &["matchLabels", "matchExpressions"])?;
        let mut found = match object.get("matchLabels") {
            Some(labels) => self.match_labels(labels)?,
            None => Vec::new(),
        };
        if let Some(expressions) = object.get("matchExpressions") {
            for expression in self.list(expressions)? {
                found.push(self.expression(expression)?);
            }
        }
        Some(found)
    }

    /// `matchLabels`: each with exactly this value.
    pub(crate) fn match_labels<'n>(&mut self, node: &'n Node) -> Option<Vec<Requirement<'n>>> {
        let mut found = Vec::new();
        for (key, value) in self.entries(node)? {
            let text = self.text(value)?;
            self.label(&key.value, text, value.place)?;
            let values = Some(vec![text.to_owned()]);
            found.push(Requirement { key: &key.value, values, negated: false, place: key.referenced });
        }
        Some(found)
    }

    fn expression<'n>(&mut self, node: &'n Node) -> Option<Requirement<'n>> {
        let object = self.object(node, &["key", "operator", "values"])?;
        let key_node = self.must(&object, "key")?;
        let key = self.text(key_node)?;
        let operator = self.must(&object, "operator")?;
        let (operator, wanted, negated) = self.one_of(operator, "operator", &OPERATORS)?;
        let values = match object.get("values") {
            Some(values) => self.texts(values)?,
            None => Vec::new(),
        };
        if values.is_empty() == wanted {
            return self.refuse(node.place, Problem::Values { operator, wanted });
        }
        for (value, place) in &values {
            self.label(key, value, *place)?;
        }
        self.label(key, "", key_node.place)?;
        let values = wanted.then(|| values.iter().map(|(value, _)| (*value).to_owned()).collect());
        Some(Requirement { key, values, negated, place: key_node.place })
    }
}
