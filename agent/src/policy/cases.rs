//! `waxseal policy test`: what people expect of their documents, for their CI.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_saphyr::Location;

use super::error::{LoadErrors, Problem};
use super::explain::{Asked, Explanation, Questions, Side, verdict_word};
use super::imagined::expected_identities;
use super::import::Node;
use super::load::{Ownership, load_from, read, text_of};
use super::reader::Reader;
use super::set::{NodeDefaults, PolicySet};
use super::stream::Part;
use crate::spiffe::TrustDomain;
use crate::workload::Origin;
use waxseal_common::verdict::Verdict;

/// What became of all cases.
#[derive(Debug, Serialize)]
pub struct CasesReport {
    /// In the order of the file.
    pub cases: Vec<CaseOutcome>,
    /// How many were not as expected.
    pub failed: usize,
}

/// What became of one case.
#[derive(Debug, Serialize)]
pub struct CaseOutcome {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it is written.
    pub origin: Origin,
    /// The verdict and the rule that were expected.
    pub expected: Expected,
    /// The rule or object that decided.
    pub rule: Option<String>,
    /// Whether all was as expected.
    pub passed: bool,
    /// What the documents say, with every step.
    pub explanation: Explanation,
}

/// What a case expects.
#[derive(Clone, Debug, Serialize)]
pub struct Expected {
    /// The verdict.
    pub verdict: &'static str,
    /// The rule or object that decides; `None` asks nothing.
    pub rule: Option<String>,
}

struct Case {
    name: Option<String>,
    origin: Origin,
    expected: Expected,
    asked: Asked,
}

const VERDICTS: [Verdict; 5] =
    [Verdict::Allow, Verdict::WouldDeny, Verdict::Audit, Verdict::Defer, Verdict::Deny];

/// Puts the cases of a file to documents: those at `files`, or those that the file of cases names, or those at `otherwise`.
pub fn check_cases(
    cases: &Path,
    files: &[PathBuf],
    otherwise: &Path,
    trust_domain: &TrustDomain,
    defaults: &NodeDefaults,
) -> Result<CasesReport, LoadErrors> {
    let bytes = read(cases, Ownership::Anybody).map_err(|problem| LoadErrors::about(cases, problem))?;
    let text = text_of(cases, &bytes)?;
    let (written, reader) = read_cases(cases, text, trust_domain)?;
    let files = match (files, written.files) {
        ([], Some(named)) => {
            let beside = cases.parent().unwrap_or(Path::new(""));
            named.into_iter().map(|file| beside.join(file)).collect()
        }
        ([], None) => vec![otherwise.to_owned()],
        (files, _) => files.to_vec(),
    };
    let set = load_from(&files, trust_domain, Ownership::Anybody)?;
    judge(written.cases, reader, &set, defaults)
}

/// Puts the cases of a text to documents that are read already. `file` is the name that places are given with; the files
/// that the text names are not read.
pub fn check_cases_text(
    file: &Path,
    text: &str,
    set: &PolicySet,
    trust_domain: &TrustDomain,
    defaults: &NodeDefaults,
) -> Result<CasesReport, LoadErrors> {
    let (written, reader) = read_cases(file, text, trust_domain)?;
    judge(written.cases, reader, set, defaults)
}

fn read_cases<'a>(
    file: &Path,
    text: &'a str,
    trust_domain: &'a TrustDomain,
) -> Result<(Written, Reader<'a>), LoadErrors> {
    let mut reader = Reader::new(file.into(), text, Part { text, lines_before: 0 }, trust_domain);
    match reader.cases() {
        Some(written) => Ok((written, reader)),
        None => Err(LoadErrors(reader.errors)),
    }
}

fn judge(
    cases: Vec<WrittenCase>,
    mut reader: Reader<'_>,
    set: &PolicySet,
    defaults: &NodeDefaults,
) -> Result<CasesReport, LoadErrors> {
    let mut questions = Questions::new(set, &expected_identities(set));
    let understood: Vec<Case> =
        cases.into_iter().filter_map(|case| reader.case(case, &mut questions)).collect();
    if !reader.errors.is_empty() {
        return Err(LoadErrors(reader.errors));
    }
    let answers = questions
        .answers(defaults)
        .map_err(|error| LoadErrors::about(&reader.file, Problem::Compile(error)))?;
    let cases: Vec<CaseOutcome> =
        understood.into_iter().map(|case| CaseOutcome::of(answers.answer(&case.asked), case)).collect();
    let failed = cases.iter().filter(|case| !case.passed).count();
    Ok(CasesReport { cases, failed })
}

/// A file of cases as written.
struct Written {
    files: Option<Vec<String>>,
    cases: Vec<WrittenCase>,
}

/// One case as written.
struct WrittenCase {
    name: Option<String>,
    place: Location,
    from: (String, Location),
    to: (String, Location),
    port: (String, Location),
    expected: Expected,
}

impl Reader<'_> {
    fn cases(&mut self) -> Option<Written> {
        let node: Node = self.parse()?;
        let (files, list) = if node.is_list() {
            (None, &node)
        } else {
            let object = self.object(&node, &["files", "cases"])?;
            let files = match object.get("files") {
                Some(node) => Some(self.texts(node)?),
                None => None,
            };
            (files, self.must(&object, "cases")?)
        };
        let files = files.map(|files| files.into_iter().map(|(file, _)| file.to_owned()).collect());
        let cases = self.list(list)?.iter().filter_map(|node| self.written_case(node)).collect();
        self.errors.is_empty().then_some(Written { files, cases })
    }

    fn written_case(&mut self, node: &Node) -> Option<WrittenCase> {
        let object = self.object(node, &["name", "from", "to", "port", "expect", "rule"])?;
        let mut must = |key| {
            let node = self.must(&object, key)?;
            Some((self.text(node)?.to_owned(), node.place))
        };
        let (from, to, port) = (must("from"), must("to"), must("port"));
        let words = VERDICTS.map(|verdict| (verdict_word(verdict), verdict_word(verdict)));
        let expect = self.must(&object, "expect")?;
        let verdict = self.one_of(expect, "verdict", &words)?;
        let mut may = |key| object.get(key).and_then(|node| self.text(node)).map(str::to_owned);
        let (name, rule) = (may("name"), may("rule"));
        let expected = Expected { verdict, rule };
        let (from, to, port, place) = (from?, to?, port?, node.place);
        Some(WrittenCase { name, place, from, to, port, expected })
    }

    fn case(&mut self, case: WrittenCase, questions: &mut Questions<'_>) -> Option<Case> {
        let WrittenCase { name, place, from, to, port, expected } = case;
        match questions.ask(&from.0, &to.0, &port.0) {
            Ok(asked) => Some(Case { name, origin: self.origin(place), expected, asked }),
            Err(error) => self.refuse(place, Problem::Question(error)),
        }
    }
}

impl CaseOutcome {
    fn of(explanation: Explanation, case: Case) -> Self {
        let Case { name, origin, expected, .. } = case;
        let rules = explanation.deciders();
        let passed = explanation.verdict == expected.verdict
            && expected.rule.as_ref().is_none_or(|wanted| match wanted.as_str() {
                "-" => rules.is_empty(),
                wanted => rules.iter().any(|rule| rule == wanted),
            });
        let rule = rules.into_iter().next();
        Self { name, origin, expected, rule, passed, explanation }
    }
}

impl Explanation {
    /// The rules that decided: of the stricter side, or of both when both say the same.
    fn deciders(&self) -> Vec<String> {
        let deciding = |side: &&Side| side.verdict == self.verdict;
        let sides = [&self.ingress, &self.egress];
        sides.into_iter().filter(deciding).filter_map(|side| Some(side.rule.as_ref()?.title())).collect()
    }
}

impl fmt::Display for CasesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.cases.iter().filter(|case| !case.passed) {
            case.fmt(f)?;
        }
        writeln!(f, "{} cases, {} failed", self.cases.len(), self.failed)
    }
}

impl fmt::Display for CaseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, origin, expected, rule, passed, explanation } = self;
        let Explanation { from, to, port, verdict, .. } = explanation;
        let word = if *passed { "ok" } else { "FAILED" };
        let name = name.as_ref().map(|name| format!(" {}:", crate::escape::escape(name))).unwrap_or_default();
        writeln!(f, "{word} {origin}:{name} {from} → {to}, {port}")?;
        // What is expected is the file's own text.
        let by = |rule: &Option<String>| {
            rule.as_ref().map(|rule| format!(", by {}", crate::escape::escape(rule))).unwrap_or_default()
        };
        writeln!(f, "  - expected {}{}", expected.verdict, by(&expected.rule))?;
        writeln!(f, "  + found    {verdict}{}", by(rule))?;
        for line in explanation.to_string().lines().skip(1) {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}
