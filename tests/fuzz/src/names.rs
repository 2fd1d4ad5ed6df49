//! Single words and lines: names, patterns, ranges, and how people ask for flows.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use waxseal::cidr::Cidr;
use waxseal::flows::{self, Filter, Party, Pattern, PortRange, Protocol, Time};
use waxseal::pki::Token;
use waxseal::policy::{IdentityPattern, Ports, TextPattern};
use waxseal::spiffe::{SpiffeId, TrustDomain};
use waxseal::workload::Glob;

use crate::is_printable;

/// Reads a text as a `T`: what is refused is refused in printable words.
fn read<T>(text: &str) -> Option<T>
where
    T: FromStr,
    T::Err: Display,
{
    refused_in_words(text.parse())
}

fn refused_in_words<T, E: Display>(read: Result<T, E>) -> Option<T> {
    read.map_err(|error| {
        let shown = error.to_string();
        assert!(is_printable(&shown), "{shown:?}");
    })
    .ok()
}

/// [`read`]; what is accepted is written so that it is read back as the same.
fn round<T>(text: &str)
where
    T: FromStr + Display + Debug + PartialEq,
    T::Err: Display + Debug,
{
    if let Some(value) = read::<T>(text) {
        let written = value.to_string();
        match written.parse::<T>() {
            Ok(again) => assert_eq!(value, again, "{text:?} is written as {written:?}"),
            Err(error) => panic!("{text:?} is written as {written:?}: {error}"),
        }
    }
}

/// Names of workloads, trust domains and nodes, patterns for them, address ranges, ports, tokens.
pub(crate) fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round::<SpiffeId>(text);
    round::<TrustDomain>(text);
    round::<Cidr>(text);
    refused_in_words(IdentityPattern::parse(text));
    refused_in_words(TextPattern::parse(text));
    refused_in_words(Ports::parse(text));
    read::<Token>(text);
    if let Some(glob) = read::<Glob>(text) {
        assert!(!glob.is_literal() || glob.matches(glob.as_str()), "{glob:?}");
        let _some = glob.matches("/system.slice/nginx.service");
    }
    let _path = Glob::path(text);
}

/// Selectors of flows, one by one and as a whole filter, and the lines that a tap prints.
pub(crate) fn filters(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round::<Party>(text);
    round::<Pattern>(text);
    round::<PortRange>(text);
    round::<Protocol>(text);
    read::<Time>(text);
    let flow = match flows::read(text) {
        Ok(flows::Line::Flow(flow)) => Some(flow),
        _ => None,
    };
    if let Ok(filter) = serde_json::from_str::<Filter>(text) {
        let written = serde_json::to_string(&filter).map(|text| serde_json::from_str::<Filter>(&text));
        assert!(matches!(written, Ok(Ok(again)) if again == filter), "{filter:?}");
    }
    if let Some(flow) = flow {
        let _wanted = Filter::default().wants(&flow);
    }
}
