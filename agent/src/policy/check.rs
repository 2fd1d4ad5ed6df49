//! `waxseal policy check`: reads files as the agent would, says what each document became, and what a person should look at.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::Direction;

use super::by_namespace::ByNamespace;
use super::compile::Compiler;
use super::compiled::Compiled;
use super::describe::{labels_text, rule_text, target_text};
use super::error::LoadErrors;
use super::imagined::{expected_identities, imagine_peers, imagined};
use super::lint::lint;
use super::load::{Ownership, load_from};
use super::set::{IdentityPolicy, Mesh, Namespace, NodeDefaults, PolicySet, Refuse, direction_word};
use super::warning::Warning;
use crate::escape::escape;
use crate::spiffe::TrustDomain;
use crate::workload::{IdentityInfo, Origin, Workload};

/// What `policy check` found.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Every mistake, with its place. With any, nothing else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<LoadErrors>,
    /// The documents are fine one by one, but not together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_error: Option<String>,
    /// What each document became, in document order.
    pub documents: Vec<DocumentReport>,
    /// What a person should look at.
    pub warnings: Vec<Warning>,
    /// How much room the tables take.
    pub sizes: Sizes,
    /// How many files were read.
    pub files: usize,
    /// Whether warnings count as a failure.
    pub strict: bool,
}

/// What one document became.
#[derive(Debug, Serialize)]
pub struct DocumentReport {
    /// Its kind.
    pub kind: &'static str,
    /// `namespace/name`, or the name.
    pub name: String,
    /// Where it is written.
    pub origin: Origin,
    /// In words, a line each.
    pub became: Vec<String>,
    /// The rows that its rules compile to, a line each; `None` when nobody asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<String>>,
}

/// How many entries the tables hold for the workloads that the files name.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sizes {
    /// Identities, the reserved ones among them.
    pub identities: usize,
    /// Address prefixes.
    pub addresses: usize,
    /// Rows.
    pub rows: usize,
    /// Port sets.
    pub sets: usize,
}

/// Checks files and directories. Whose files they are does not matter here: nothing is put into force.
pub fn check(paths: &[PathBuf], trust_domain: &TrustDomain, strict: bool) -> CheckReport {
    check_with(paths, trust_domain, CheckOptions { strict, ..CheckOptions::default() })
}

/// What else `policy check` is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions<'a> {
    /// Whether warnings count as a failure.
    pub strict: bool,
    /// Whether the compiled rows of each document are shown.
    pub rows: bool,
    /// A list of workloads that no document describes.
    pub workloads: Option<&'a Path>,
}

/// [`check`] with everything that can be asked.
pub fn check_with(paths: &[PathBuf], trust_domain: &TrustDomain, options: CheckOptions<'_>) -> CheckReport {
    let loaded = load_from(paths, trust_domain, Ownership::Anybody).and_then(|mut set| {
        options.workloads.map_or(Ok(()), |file| set.add_workloads(file, trust_domain))?;
        Ok(set)
    });
    match loaded {
        Ok(set) => check_set(&set, trust_domain, options),
        Err(errors) => CheckReport { errors: Some(errors), ..CheckReport::empty(options.strict) },
    }
}

/// [`check_with`] for documents that are read already. Its workloads are all there are.
pub fn check_set(set: &PolicySet, trust_domain: &TrustDomain, options: CheckOptions<'_>) -> CheckReport {
    let mut report = CheckReport::empty(options.strict);
    report.fill(set, trust_domain, options.rows);
    report
}

impl CheckReport {
    /// 0 when all is well, 1 when there are warnings and they count, 2 when there are mistakes.
    pub fn exit_code(&self) -> u8 {
        if self.errors.is_some() || self.compile_error.is_some() {
            2
        } else {
            u8::from(self.strict && !self.warnings.is_empty())
        }
    }

    fn empty(strict: bool) -> Self {
        Self {
            errors: None,
            compile_error: None,
            documents: Vec::new(),
            warnings: Vec::new(),
            sizes: Sizes::default(),
            files: 0,
            strict,
        }
    }

    fn fill(&mut self, set: &PolicySet, trust_domain: &TrustDomain, rows: bool) {
        self.files = set.files;
        self.warnings = lint(set);
        self.documents = documents(set);
        let defaults = NodeDefaults { mode: Mode::Audit, mesh: Vec::new(), local: Vec::new() };
        let known = expected_identities(set);
        let mut everybody = imagined(set, trust_domain, &known);
        if rows {
            imagine_peers(set, trust_domain, &mut everybody);
        }
        let compile = |identities: &[IdentityInfo]| Compiler::new(1).compile(set, identities, &defaults);
        match compile(&known).and_then(|compiled| Ok((compiled, compile(&everybody)?))) {
            Ok((compiled, whole)) => {
                self.sizes = Sizes::of(&compiled);
                if rows {
                    self.add_rows(&whole, &everybody);
                }
            }
            Err(error) => self.compile_error = Some(error.to_string()),
        }
    }

    fn add_rows(&mut self, compiled: &Compiled, identities: &[IdentityInfo]) {
        let mut by_document: HashMap<(&str, &str), Vec<String>> = HashMap::new();
        for (rule, lines) in compiled.lines_of_rules(identities) {
            let Some(info) = compiled.rule(rule) else { continue };
            let list = by_document.entry((info.kind, info.policy.as_str())).or_default();
            list.extend(lines.into_iter().map(|line| format!("{line} ({})", info.title())));
        }
        for document in &mut self.documents {
            let lines = by_document.remove(&(document.kind, document.name.as_str()));
            document.rows = Some(lines.unwrap_or_default());
        }
    }
}

impl Sizes {
    fn of(compiled: &Compiled) -> Self {
        let Compiled { identities, addresses, rows, sets, rules: _ } = compiled;
        Self { identities: identities.len(), addresses: addresses.len(), rows: rows.len(), sets: sets.len() }
    }
}

fn documents(set: &PolicySet) -> Vec<DocumentReport> {
    let near = ByNamespace::new(set);
    let mut documents: Vec<DocumentReport> = Vec::with_capacity(set.policies.len());
    for policy in &set.policies {
        let mut report = policy_report(&near, policy);
        match documents.last_mut() {
            // The parts of one document are told together.
            Some(last) if policy.part > 0 && last.origin == report.origin => {
                last.became.append(&mut report.became);
            }
            _ => documents.push(report),
        }
    }
    documents.extend(set.workloads.iter().map(|workload| workload_report(&near, workload)));
    documents.extend(set.namespaces.values().map(namespace_report));
    documents.extend(set.mesh.as_ref().map(mesh_report));
    documents.extend(set.silent.iter().map(|silent| DocumentReport {
        kind: silent.kind,
        name: silent.title.clone(),
        origin: silent.origin.clone(),
        became: vec![silent.became.clone()],
        rows: None,
    }));
    documents.sort_by(|a, b| a.origin.cmp(&b.origin));
    documents
}

fn policy_report(near: &ByNamespace<'_>, policy: &IdentityPolicy) -> DocumentReport {
    let whom = format!("protects {}", target_text(&policy.target, &policy.except));
    let selected: Vec<String> = near.selected(policy).into_iter().map(Workload::full_name).collect();
    let known =
        if selected.is_empty() { String::new() } else { format!(" (known: {})", selected.join(", ")) };
    let mut became = vec![format!("{whom}{known}")];
    became.extend(policy.mode.map(|mode| match mode {
        Mode::Enforce => "enforces, unless a workload has a mode of its own".to_owned(),
        Mode::Audit | Mode::Permissive => "is only judged beside: it denies nothing".to_owned(),
    }));
    for direction in [Direction::Ingress, Direction::Egress] {
        let word = direction_word(direction);
        let Some(rules) = policy.rules(direction) else { continue };
        became.extend(rules.iter().map(|rule| format!("{word}: {}", rule_text(rule, direction))));
        if policy.denies_by_default(direction) {
            became.push(format!("{word}: what no rule allows is denied"));
        }
    }
    DocumentReport {
        kind: policy.kind,
        name: policy.title(),
        origin: policy.origin.clone(),
        became,
        rows: None,
    }
}

fn workload_report(near: &ByNamespace<'_>, workload: &Workload) -> DocumentReport {
    let mut became = vec![format!("is {}", workload.spiffe_id)];
    if !workload.labels.is_empty() {
        became.push(format!("carries {}", labels_text(&workload.labels)));
    }
    became.extend(selector_texts(workload));
    became.extend(workload.mode.map(|mode| format!("is in mode {}, whatever policies say", mode.as_str())));
    let mut selecting: Vec<String> =
        near.selecting(workload).into_iter().map(IdentityPolicy::title).collect();
    selecting.dedup();
    became.push(if selecting.is_empty() {
        "no policy selects it".to_owned()
    } else {
        format!("selected by {}", selecting.join(", "))
    });
    DocumentReport {
        kind: "Workload",
        name: workload.full_name(),
        origin: workload.origin.clone(),
        became,
        rows: None,
    }
}

fn selector_texts(workload: &Workload) -> Vec<String> {
    let selector = &workload.selector;
    let container = selector.container.as_ref();
    let shown = |what: &str, text: &dyn fmt::Display| format!("{what} {}", escape(&text.to_string()));
    [
        selector.systemd_unit.as_ref().map(|glob| shown("found by systemd unit", glob)),
        selector.cgroup.as_ref().map(|glob| shown("found by cgroup", glob)),
        container.and_then(|c| c.name.as_ref()).map(|glob| shown("found by container name", glob)),
        container.and_then(|c| c.image.as_ref()).map(|glob| shown("found by container image", glob)),
        container
            .filter(|c| !c.labels.is_empty())
            .map(|c| format!("found by container labels {}", labels_text(&c.labels))),
        selector.uid.map(|uid| format!("found by user {uid}")),
        selector.executable.as_ref().map(|_| "found by executable".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn namespace_report(namespace: &Namespace) -> DocumentReport {
    let mut became = Vec::new();
    became.extend(namespace.mode.map(|mode| format!("its workloads are in mode {}", mode.as_str())));
    if namespace.default_deny {
        became.push("what no rule allows is denied, in both directions".to_owned());
    }
    if namespace.refuse == Refuse::Drop {
        became.push("denied connections are dropped in silence".to_owned());
    }
    if became.is_empty() {
        became.push("changes nothing".to_owned());
    }
    DocumentReport {
        kind: "Namespace",
        name: namespace.name.clone(),
        origin: namespace.origin.clone(),
        became,
        rows: None,
    }
}

fn mesh_report(mesh: &Mesh) -> DocumentReport {
    let ranges: Vec<String> = mesh.cidrs.iter().map(ToString::to_string).collect();
    let mut became = vec![format!(
        "workloads may live in {}",
        if ranges.is_empty() { "no address range".to_owned() } else { ranges.join(", ") }
    )];
    became.extend(mesh.peers.iter().map(|peer| match peer.via {
        Some(via) => format!("the agent for {} answers at {via}", peer.cidr),
        None => format!("the agent for {} answers at the destination itself", peer.cidr),
    }));
    DocumentReport { kind: "Mesh", name: mesh.name.clone(), origin: mesh.origin.clone(), became, rows: None }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(errors) = &self.errors {
            writeln!(f, "{errors}")?;
            let count = errors.0.len();
            let mistakes = if count == 1 { "mistake" } else { "mistakes" };
            return writeln!(f, "\n{count} {mistakes}; nothing would be applied");
        }
        for document in &self.documents {
            writeln!(f, "{} {} ({})", document.kind, document.name, document.origin)?;
            for line in &document.became {
                writeln!(f, "  {line}")?;
            }
            for line in document.rows.iter().flatten() {
                writeln!(f, "  | {line}")?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        if let Some(error) = &self.compile_error {
            writeln!(f, "error: {error}")?;
        }
        let Sizes { identities, addresses, rows, sets } = self.sizes;
        writeln!(
            f,
            "{} documents in {} files, {} warnings; tables: {identities} identities, {addresses} address prefixes, {rows} rows, \
             {sets} port sets",
            self.documents.len(),
            self.files,
            self.warnings.len(),
        )
    }
}
