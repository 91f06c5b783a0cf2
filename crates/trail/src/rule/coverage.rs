//! What the rules cover: a layer for the ATT&CK Navigator, and the rules of each control.

use super::{Rule, RuleSet, file};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Versions of the layer format, of the Navigator that reads it and of the ATT&CK that ids are taken from.
const LAYER: &str = "4.5";
const NAVIGATOR: &str = "5.1.0";
const ATTACK: &str = "17";

/// A Navigator layer: each technique with the number of rules for it.
pub fn layer(set: &RuleSet) -> Value {
    let mut techniques: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rule in set.rules() {
        for id in &rule.header().attack {
            techniques.entry(id).or_default().insert(rule.id());
        }
    }
    let most = techniques.values().map(BTreeSet::len).max().unwrap_or(1);
    let techniques: Vec<Value> = techniques
        .iter()
        .map(|(id, rules)| {
            let comment = rules.iter().copied().collect::<Vec<_>>().join(", ");
            json!({"techniqueID": id, "score": rules.len(), "enabled": true, "comment": comment,
                "showSubtechniques": id.contains('.')})
        })
        .collect();
    json!({
        "name": "Keytrail rules",
        "versions": {"attack": ATTACK, "navigator": NAVIGATOR, "layer": LAYER},
        "domain": "enterprise-attack",
        "description": format!("{} rules; the score is the number of rules for a technique", set.rules().len()),
        "techniques": techniques,
        "gradient": {"colors": ["#ffffff", "#66b1ff"], "minValue": 0, "maxValue": most},
        "legendItems": [],
        "showTacticRowBackground": false,
        "selectTechniquesAcrossTactics": true,
    })
}

/// Control ids with the rules that name them: member `compliance` of the header, where the format has it, and labels
/// that are called `control` or begin with `control.`.
pub fn controls(set: &RuleSet) -> BTreeMap<String, BTreeSet<String>> {
    let mut controls: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in set.rules() {
        for control in named(rule) {
            controls.entry(control).or_default().insert(rule.id().to_owned());
        }
    }
    controls
}

fn named(rule: &Rule) -> Vec<String> {
    let header = file::split(&rule.file.text).ok().and_then(|parts| toml::from_str::<toml::Table>(&parts.toml).ok());
    let listed = header.as_ref().and_then(|header| header.get("compliance")).and_then(toml::Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned));
    let is_control = |name: &str| name == "control" || name.starts_with("control.");
    let labels = rule.header().labels.iter().filter(|(name, _)| is_control(name));
    listed.chain(labels.flat_map(|(_, ids)| ids.split(',').map(|id| id.trim().to_owned()))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_technique_is_in_the_layer_with_its_rules() {
        let set = RuleSet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")).unwrap();
        let layer = layer(&set);
        assert_eq!(layer["versions"]["layer"], "4.5");
        let techniques = layer["techniques"].as_array().unwrap();
        let ids: BTreeSet<&str> =
            techniques.iter().map(|technique| technique["techniqueID"].as_str().unwrap()).collect();
        let named: BTreeSet<&str> =
            set.rules().iter().flat_map(|rule| &rule.header().attack).map(String::as_str).collect();
        assert_eq!(ids, named);
        let deletion = techniques.iter().find(|technique| technique["techniqueID"] == "T1485").unwrap();
        assert!(deletion["comment"].as_str().unwrap().contains("key-deletion-scheduled"));
    }
}
