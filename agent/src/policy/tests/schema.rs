//! The JSON Schema that editors use says what the reader says.

use serde_json::Value;

use super::read;
use crate::policy::SCHEMA;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// The properties at a place of the schema, references followed.
fn properties(schema: &Value, path: &[&str]) -> Vec<String> {
    let mut at = &schema["$defs"][path[0]];
    for step in &path[1..] {
        at = if *step == "[]" { &at["items"] } else { &at["properties"][*step] };
        if let Some(reference) = at["$ref"].as_str() {
            at = &schema["$defs"][reference.trim_start_matches("#/$defs/")];
        }
    }
    assert_eq!(at["additionalProperties"], false, "{path:?}");
    let mut names: Vec<String> = at["properties"].as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

/// The keys that the reader allows where `odd: 1` stands.
fn allowed(text: &str) -> Vec<String> {
    let found = read(text).unwrap_err().to_string();
    let list = found.split("allowed here: ").nth(1).unwrap_or_else(|| panic!("{found}"));
    let mut names: Vec<String> =
        list.lines().next().unwrap().split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_schema_allows_the_keys_that_the_reader_allows() {
    let schema = schema();
    let document = |kind: &str, metadata: &str, spec: &str| {
        format!(
            "apiVersion: waxseal.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: n{metadata} }}\nspec: {spec}\n"
        )
    };
    let odd = ", odd: 1";
    for (path, text) in [
        (&["IdentityPolicy"][..], document("IdentityPolicy", "", "{}") + "odd: 1"),
        (&["IdentityPolicy", "metadata"], document("IdentityPolicy", odd, "{}")),
        (&["IdentityPolicy", "spec"], document("IdentityPolicy", "", "{ odd: 1 }")),
        (
            &["IdentityPolicy", "spec", "ingress", "[]"],
            document("IdentityPolicy", "", "{ ingress: [ { odd: 1 } ] }"),
        ),
        (
            &["IdentityPolicy", "spec", "egress", "[]"],
            document("IdentityPolicy", "", "{ egress: [ { odd: 1 } ] }"),
        ),
        (
            &["IdentityPolicy", "spec", "ingress", "[]", "from", "[]"],
            document("IdentityPolicy", "", "{ ingress: [ { from: [ { odd: 1 } ] } ] }"),
        ),
        (
            &["IdentityPolicy", "spec", "egress", "[]", "to", "[]", "not"],
            document("IdentityPolicy", "", "{ egress: [ { to: [ { not: { odd: 1 } } ] } ] }"),
        ),
        (&["Workload", "metadata"], document("Workload", odd, "{ selector: { uid: 1 } }")),
        (&["Workload", "spec"], document("Workload", "", "{ selector: { uid: 1 }, odd: 1 }")),
        (&["Workload", "spec", "selector"], document("Workload", "", "{ selector: { odd: 1 } }")),
        (
            &["Workload", "spec", "selector", "container"],
            document("Workload", "", "{ selector: { container: { odd: 1 } } }"),
        ),
        (&["Namespace", "metadata"], document("Namespace", odd, "{}")),
        (&["Namespace", "spec"], document("Namespace", "", "{ odd: 1 }")),
        (&["Mesh", "metadata"], document("Mesh", odd, "{ cidrs: [] }")),
        (&["Mesh", "spec"], document("Mesh", "", "{ cidrs: [], odd: 1 }")),
        (&["Mesh", "spec", "peers", "[]"], document("Mesh", "", "{ cidrs: [], peers: [ { odd: 1 } ] }")),
    ] {
        assert_eq!(properties(&schema, path), allowed(&text), "{path:?}");
    }
}

#[test]
fn the_words_of_the_schema_are_those_of_the_reader() {
    let schema = schema();
    let words = |value: &Value| -> Vec<String> {
        value["enum"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let known = |spec: &str| -> Vec<String> {
        let text = format!(
            "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: n }}\nspec: {spec}"
        );
        let found = read(&text).unwrap_err().to_string();
        found
            .lines()
            .next()
            .unwrap()
            .split("known: ")
            .nth(1)
            .unwrap()
            .split(", ")
            .map(str::to_owned)
            .collect()
    };
    let definitions = &schema["$defs"];
    let spec = &definitions["IdentityPolicy"]["properties"]["spec"]["properties"];
    assert_eq!(words(&spec["mode"]), known("{ mode: odd }"));
    assert_eq!(
        words(&definitions["ingressRule"]["properties"]["action"]),
        known("{ ingress: [ { action: odd } ] }")
    );
    assert_eq!(
        words(&definitions["peer"]["properties"]["entity"]),
        known("{ ingress: [ { from: [ { entity: odd } ] } ] }")
    );
}

#[test]
fn the_published_copy_of_the_schema_is_the_one_that_the_command_prints() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/schema.json");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, SCHEMA).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), SCHEMA, "UPDATE_EXPECT=1 writes it anew");
}
