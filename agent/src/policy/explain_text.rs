//! An explanation in words.

use std::fmt;

use super::explain::{Explanation, Side, Step};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, port, egress, ingress, verdict } = self;
        writeln!(f, "{verdict}: {from} → {to}, {port}")?;
        writeln!(f, "egress, the rules of the source: {egress}")?;
        write!(f, "ingress, the rules of the destination: {ingress}")
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.verdict, self.reason)?;
        if let Some(rule) = &self.rule {
            write!(f, ", {rule}")?;
        }
        for (index, Step { text, origin }) in self.steps.iter().enumerate() {
            write!(f, "\n  {}. {text}", index + 1)?;
            if let Some(origin) = origin {
                write!(f, " ({origin})")?;
            }
        }
        Ok(())
    }
}
