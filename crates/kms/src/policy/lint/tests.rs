//! Each check has a document that it finds and one that it does not, for each kind of policy it is about: `fixtures/`.

#![allow(clippy::unwrap_used)]

use super::*;
use std::collections::BTreeSet;
use std::path::Path;

const ACCOUNT: &str = "111122223333";

fn run(text: &str, flavor: Flavor) -> Vec<Finding> {
    lint(text, flavor, ACCOUNT).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// (kind and code, flavor, bad, good) of each pair.
fn fixtures() -> Vec<(String, Flavor, String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/lint/fixtures");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Those of grants are no documents; `grants` runs them.
    let names = names.filter(|name| !name.starts_with("grant."));
    let pairs: BTreeSet<String> = names.filter_map(|name| Some(name.strip_suffix(".bad.json")?.to_owned())).collect();
    let read = |name: &str, which| std::fs::read_to_string(folder.join(format!("{name}.{which}.json"))).unwrap();
    let flavor = |name: &str| if name.starts_with("key.") { Flavor::KeyPolicy } else { Flavor::IdentityPolicy };
    pairs.into_iter().map(|name| (name.clone(), flavor(&name), read(&name, "bad"), read(&name, "good"))).collect()
}

#[test]
fn good_documents_have_no_findings() {
    for (name, flavor, _, good) in fixtures() {
        let findings = run(&good, flavor);
        assert!(findings.is_empty(), "{name}: {findings:?}");
    }
}

#[test]
fn bad_documents_are_found_with_an_allowed_request_and_a_correction_that_is_no_wider() {
    let mut seen = BTreeSet::new();
    for (name, flavor, bad, _) in fixtures() {
        let code = name.split('.').nth(1).unwrap();
        let findings = run(&bad, flavor);
        let finding =
            findings.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("{name}: {findings:?}"));
        let missing = code == "no-account-statement";
        // An alias as resource allows nothing: that is what is wrong with it.
        assert_eq!(finding.example.is_some(), !missing && name != "identity.alias-in-policy", "{name}: {finding:?}");
        assert_eq!(finding.statement.is_some(), !missing, "{name}");
        let correction = finding.correction.as_ref().unwrap_or_else(|| panic!("{name} has no correction"));
        assert_eq!(correction.no_wider, !missing, "{name}: {}", correction.policy);
        let again = run(&correction.policy, flavor);
        assert!(again.iter().all(|other| other.code != code), "{name} is still found: {again:?}");
        seen.insert(code.to_owned());
    }
    assert_eq!(seen.len(), 10, "each check has a fixture: {seen:?}");
}

#[test]
fn a_wider_document_is_seen_as_wider() {
    let document = |action| {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/a"}},"Action":"{action}","Resource":"*"}}}}"#
        );
        (serde_json::from_str::<Value>(&text).unwrap(), Document::parse(&text, Flavor::KeyPolicy).unwrap())
    };
    let ((narrow_json, narrow), (wide_json, wide)) = (document("kms:Decrypt"), document("kms:*crypt"));
    let grid = Grid::of(&[&narrow_json, &wide_json], ACCOUNT);
    assert!(grid.is_within(&narrow, &wide));
    assert!(!grid.is_within(&wide, &narrow));
}

#[test]
fn a_condition_of_a_named_value_is_reached() {
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/r"},
        "Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:app":"pay"}}}]}"#;
    let findings = run(text, Flavor::KeyPolicy);
    let found = findings.iter().find(|finding| finding.code == "all-actions").unwrap();
    let example = found.example.as_ref().unwrap();
    assert_eq!(example.principal, "arn:aws:sts::111122223333:assumed-role/r/some");
    assert_eq!(example.circumstances, "with the condition values of the policy");
}

#[test]
fn what_does_not_parse_is_an_error() {
    for text in ["", "{}", r#"{"Statement":[]}"#, r#"{"Statement":{"Effect":"Allow"}}"#] {
        assert!(lint(text, Flavor::KeyPolicy, ACCOUNT).is_err(), "{text}");
    }
}
