//! The questions that every importer asks of a tree, and the mistakes that they can all meet.

use serde_saphyr::{Location, Spanned};

use super::node::{Node, Value};
use crate::cidr::Cidr;
use crate::escape::escape;
use crate::nearest::nearest;
use crate::policy::error::Problem;
use crate::policy::ports::PortsError;
use crate::policy::reader::Reader;
use crate::policy::set::AddressRange;

/// Keys with values, all of which are known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'n> {
    pub(crate) place: Location,
    entries: &'n [(Spanned<String>, Node)],
}

impl<'n> Object<'n> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
    }

    /// The keys of these that are there, with their places.
    pub(crate) fn among(&self, keys: &[&str]) -> Vec<(&'n str, Location)> {
        let found = self.entries.iter().filter(|(name, _)| keys.contains(&name.value.as_str()));
        found.map(|(name, _)| (name.value.as_str(), name.referenced)).collect()
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Reader<'_> {
    /// An object with no other keys than these.
    pub(crate) fn object<'n>(&mut self, node: &'n Node, keys: &[&str]) -> Option<Object<'n>> {
        let entries = self.entries(node)?;
        for (name, _) in entries {
            if !keys.contains(&name.value.as_str()) {
                self.unknown_key(name, keys);
            }
        }
        Some(Object { place: node.place, entries })
    }

    fn unknown_key(&mut self, name: &Spanned<String>, keys: &[&str]) {
        let near = nearest(&name.value, keys.iter().copied()).map(str::to_owned);
        let problem = Problem::UnknownKey {
            key: escape(&name.value).into_owned(),
            near,
            known: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        let _none: Option<()> = self.refuse(name.referenced, problem);
    }

    /// Keys with values, whatever the keys.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node) -> Option<&'n [(Spanned<String>, Node)]> {
        match &node.value {
            Value::Object(entries) => Some(entries),
            _ => self.unexpected(node, "keys with values"),
        }
    }

    /// A list.
    pub(crate) fn list<'n>(&mut self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(list) => Some(list),
            _ => self.unexpected(node, "a list"),
        }
    }

    /// A text. A number or a word like `true` must be quoted, as the systems whose documents these are have it.
    pub(crate) fn text<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => self.unexpected(node, "a text"),
        }
    }

    /// A list of texts, with their places.
    pub(crate) fn texts<'n>(&mut self, node: &'n Node) -> Option<Vec<(&'n str, Location)>> {
        let list = self.list(node)?;
        Some(list.iter().filter_map(|node| Some((self.text(node)?, node.place))).collect())
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => self.unexpected(node, "true or false"),
        }
    }

    fn unexpected<T>(&mut self, node: &Node, expected: &'static str) -> Option<T> {
        let quote = matches!(node.value, Value::Number(_) | Value::Boolean(_)) && expected == "a text";
        let problem = match node.value {
            Value::Nothing => Problem::NoValue,
            _ => Problem::Expected { expected, found: node.value.word(), quote },
        };
        self.refuse(node.place, problem)
    }

    /// The value of a key that must be there.
    pub(crate) fn must<'n>(&mut self, object: &Object<'n>, key: &'static str) -> Option<&'n Node> {
        match object.get(key) {
            Some(node) => Some(node),
            None => self.refuse(object.place, Problem::Missing(key)),
        }
    }

    /// One word out of a few.
    pub(crate) fn one_of<T: Copy>(
        &mut self,
        node: &Node,
        what: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(node)?;
        self.spelled(text, node.place, what, words)
    }

    /// A port as a number or as a text of digits; another text is `Err`.
    pub(crate) fn port<'n>(&mut self, node: &'n Node) -> Option<Result<u16, &'n str>> {
        let number = match &node.value {
            Value::Number(number) => number.and_then(|number| u16::try_from(number).ok()),
            Value::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let plain = text == "0" || !text.starts_with('0');
                text.parse().ok().filter(|_| plain)
            }
            Value::Text(text) => return Some(Err(text)),
            _ => return self.unexpected(node, "a port"),
        };
        match number {
            Some(number) => Some(Ok(number)),
            None => self.refuse(node.place, no_port(node)),
        }
    }

    /// A port from 1 to 65535.
    pub(crate) fn port_number(&mut self, node: &Node) -> Option<u16> {
        match self.port(node)? {
            Ok(number) if number > 0 => Some(number),
            _ => self.refuse(node.place, no_port(node)),
        }
    }

    /// A range of addresses as it is written here.
    pub(crate) fn range_of(&mut self, text: &str, place: Location) -> Option<AddressRange> {
        match text.parse::<Cidr>() {
            Ok(cidr) => Some(AddressRange { cidr, except: Box::default() }),
            Err(error) => self.refuse(place, error.into()),
        }
    }

    /// A range of addresses with its holes.
    pub(crate) fn range_except(&mut self, cidr: &Node, except: Option<&Node>) -> Option<AddressRange> {
        let text = self.text(cidr)?;
        let mut range = self.range_of(text, cidr.place)?;
        let holes = except.and_then(|node| self.texts(node)).unwrap_or_default();
        let mut except = Vec::new();
        for (text, place) in holes {
            let Some(AddressRange { cidr: hole, .. }) = self.range_of(text, place) else { continue };
            if crate::policy::addresses::covers(range.cidr, hole) {
                except.push(hole);
            } else {
                let problem = Problem::ExceptOutside { hole, cidr: range.cidr };
                let _none: Option<()> = self.refuse(place, problem);
            }
        }
        range.except = except.into();
        Some(range)
    }
}

/// What is written where a port should be, as far as it can be named.
pub(super) fn no_port(node: &Node) -> Problem {
    match &node.value {
        Value::Text(text) => PortsError::Number(text.clone()).into(),
        Value::Number(Some(number)) => PortsError::Number(number.to_string()).into(),
        _ => Problem::Port,
    }
}
