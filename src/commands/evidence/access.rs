//! Who may use or administer each key at a time, for the state of a pack: `policy who-can` over the whole folder, in two
//! classes of actions.

use crate::commands::policy::past::{folded, snapshot};
use anyhow::Context;
use keytrail_kms::past::{Past, Right};
use keytrail_trail::evidence::Access;
use std::collections::BTreeMap;
use std::path::Path;

/// What each class is asked by; not all of KMS's actions, because each is judged for each principal and key.
const CLASSES: [(&str, &[&str]); 2] = [
    (
        "use",
        &[
            "kms:Decrypt",
            "kms:DeriveSharedSecret",
            "kms:Encrypt",
            "kms:GenerateDataKey",
            "kms:GenerateMac",
            "kms:ReEncryptFrom",
            "kms:Sign",
        ],
    ),
    (
        "administer",
        &[
            "kms:CreateGrant",
            "kms:DisableKey",
            "kms:ImportKeyMaterial",
            "kms:PutKeyPolicy",
            "kms:ScheduleKeyDeletion",
            "kms:UpdateAlias",
        ],
    ),
];

/// Most keys that are looked at; thirteen actions of some hundred principals each take seconds a thousand keys.
const KEYS_MAX: usize = 5_000;

/// Rights at the end of a period, and what the statement has to say about how they were found.
pub(super) async fn at(dir: &Path, to_us: u64) -> anyhow::Result<(Vec<Access>, Vec<String>)> {
    let snapshot = snapshot(dir).await?;
    let look = move || {
        let (mut all, mut remarks) = (Vec::new(), Vec::new());
        for mut past in folded(&snapshot, to_us)? {
            if past.unreadable() > 0 {
                remarks.push(format!(
                    "{} changes in the log could not be read: access to keys may be told wrongly.",
                    past.unreadable()
                ));
            }
            let keys: Vec<String> = past.key_arns().map(str::to_owned).collect();
            if keys.len() > KEYS_MAX {
                remarks.push(format!("Access was computed for {KEYS_MAX} of {} keys.", keys.len()));
            }
            for key in keys.iter().take(KEYS_MAX) {
                all.extend(CLASSES.iter().flat_map(|(class, actions)| rights(&mut past, class, actions, key, to_us)));
            }
        }
        Ok::<_, anyhow::Error>((all, remarks))
    };
    tokio::task::spawn_blocking(look).await.context("join the fold")?
}

/// One row for each principal that has any of the actions under the same conditions.
fn rights(past: &mut Past, class: &str, actions: &[&str], key: &str, now_us: u64) -> Vec<Access> {
    let actions: Vec<String> = actions.iter().map(|action| (*action).to_owned()).collect();
    let mut rows: BTreeMap<(String, String, String, bool), Vec<String>> = BTreeMap::new();
    for Right { principal, action, unknown, survey, .. } in past.who_can(&actions, key, now_us) {
        for way in &survey.ways {
            let mut conditions = way.conditions.clone();
            conditions.extend(survey.unless.iter().map(|denial| format!("not ({})", denial.conditions.join(" and "))));
            let through = way.through.join(" with ");
            let row = (principal.clone(), through, conditions.join(" and "), unknown);
            let held = rows.entry(row).or_default();
            if !held.contains(&action) {
                held.push(action.clone());
            }
        }
    }
    let access =
        |((principal, through, conditions, unknown), actions): ((String, String, String, bool), Vec<String>)| {
            let (key_arn, class) = (key.to_owned(), class.to_owned());
            Access { key_arn, principal, class, actions: actions.join(" "), through, conditions, unknown }
        };
    rows.into_iter().map(access).collect()
}
