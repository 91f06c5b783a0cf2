//! The rules, playbooks and fixtures that ship with the command, compiled in.
//!
//! `init` writes them to `DIR/rules`, where analysts edit them. The list is kept complete by a test.

use std::path::Path;

macro_rules! shipped {
    ($path:literal) => {
        ($path, include_str!(concat!("../rules/", $path)))
    };
}

/// Path below `rules/` and text of each shipped file.
pub(crate) const FILES: &[(&str, &str)] = &[
    shipped!("fixtures/cancel-key-deletion.json"),
    shipped!("fixtures/create-grant.json"),
    shipped!("fixtures/create-key-public.json"),
    shipped!("fixtures/decrypt.json"),
    shipped!("fixtures/delete-expired-key-material.json"),
    shipped!("fixtures/delete-key-material.json"),
    shipped!("fixtures/describe-key.json"),
    shipped!("fixtures/disable-key-rotation.json"),
    shipped!("fixtures/disable-key.json"),
    shipped!("fixtures/disconnect-key-store.json"),
    shipped!("fixtures/enable-key-rotation.json"),
    shipped!("fixtures/enable-key.json"),
    shipped!("fixtures/epoch-start.json"),
    shipped!("fixtures/import-key-material.json"),
    shipped!("fixtures/integrity.json"),
    shipped!("fixtures/load-identities.json"),
    shipped!("fixtures/put-key-policy-fenced.json"),
    shipped!("fixtures/put-key-policy-public.json"),
    shipped!("fixtures/put-key-policy.json"),
    shipped!("fixtures/put-quarantine.json"),
    shipped!("fixtures/re-encrypt.json"),
    shipped!("fixtures/replicate-key.json"),
    shipped!("fixtures/report-responder.json"),
    shipped!("fixtures/responder-disable-key.json"),
    shipped!("fixtures/revoke-grant.json"),
    shipped!("fixtures/schedule-key-deletion.json"),
    shipped!("fixtures/update-alias.json"),
    shipped!("fixtures/update-primary-region.json"),
    shipped!("fixtures/warn-of-key-deletion.json"),
    shipped!("kms/alias-repointed.sql"),
    shipped!("kms/break-glass-used.sql"),
    shipped!("kms/canary-touched.sql"),
    shipped!("kms/ciphertext-probing.sql"),
    shipped!("kms/create-cancel-churn.sql"),
    shipped!("kms/decrypt-spike-per-key.sql"),
    shipped!("kms/decrypt-spike.sql"),
    shipped!("kms/deletion-of-key-in-use.sql"),
    shipped!("kms/denied-burst.sql"),
    shipped!("kms/denied-on-many-keys.sql"),
    shipped!("kms/denied-then-success.sql"),
    shipped!("kms/destructive-operation-denied.sql"),
    shipped!("kms/disabled-key-used.sql"),
    shipped!("kms/dormant-key-used.sql"),
    shipped!("kms/dormant-principal.sql"),
    shipped!("kms/encryption-to-foreign-key-in-bulk.sql"),
    shipped!("kms/encryption-to-foreign-key.sql"),
    shipped!("kms/first-seen-network.sql"),
    shipped!("kms/first-seen-principal-key.sql"),
    shipped!("kms/first-seen-region-or-agent.sql"),
    shipped!("kms/grant-broad.sql"),
    shipped!("kms/grant-then-use.sql"),
    shipped!("kms/grant-to-external-account.sql"),
    shipped!("kms/grant-to-self.sql"),
    shipped!("kms/grants-ended-en-masse.sql"),
    shipped!("kms/key-deletion-cancelled.sql"),
    shipped!("kms/key-deletion-scheduled.sql"),
    shipped!("kms/key-disabled.sql"),
    shipped!("kms/key-material-deleted.sql"),
    shipped!("kms/key-material-expired.sql"),
    shipped!("kms/key-material-imported.sql"),
    shipped!("kms/key-policy-changed.sql"),
    shipped!("kms/key-policy-external-account.sql"),
    shipped!("kms/key-policy-lockout.sql"),
    shipped!("kms/key-policy-public.sql"),
    shipped!("kms/key-replicated-to-region.sql"),
    shipped!("kms/key-retirement.sql"),
    shipped!("kms/key-store-detached.sql"),
    shipped!("kms/log-erased.sql"),
    shipped!("kms/many-contexts.sql"),
    shipped!("kms/many-distinct-keys.sql"),
    shipped!("kms/many-keys-destroyed.sql"),
    shipped!("kms/mfa-less-destructive.sql"),
    shipped!("kms/policy-lets-in-then-decrypt.sql"),
    shipped!("kms/policy-then-decrypt.sql"),
    shipped!("kms/policy-then-destroy.sql"),
    shipped!("kms/primary-region-changed.sql"),
    shipped!("kms/recon-sweep.sql"),
    shipped!("kms/responder-without-action.sql"),
    shipped!("kms/response-undone.sql"),
    shipped!("kms/resurrected-key-used.sql"),
    shipped!("kms/root-used.sql"),
    shipped!("kms/rotation-disabled.sql"),
    shipped!("kms/self-test.sql"),
    shipped!("kms/service-path-bypassed.sql"),
    shipped!("kms/sign-spike.sql"),
    shipped!("kms/signing-key-new-signer.sql"),
    shipped!("meta/audit-chain-gap.sql"),
    shipped!("meta/audit-lag.sql"),
    shipped!("meta/entity-risk.sql"),
    shipped!("meta/exception-tampering.sql"),
    shipped!("meta/responder-down.sql"),
    shipped!("meta/responder-paused.sql"),
    shipped!("meta/rule-health.sql"),
    shipped!("playbooks/access-key-stolen.toml"),
    shipped!("playbooks/alias-repointed.toml"),
    shipped!("playbooks/credential-misuse.toml"),
    shipped!("playbooks/exposure-author.toml"),
    shipped!("playbooks/grant-unwanted.toml"),
    shipped!("playbooks/key-deletion-scheduled.toml"),
    shipped!("playbooks/key-policy-lockout.toml"),
    shipped!("playbooks/key-policy-public.toml"),
    shipped!("playbooks/mfa-less-destructive.toml"),
    shipped!("playbooks/self-test.toml"),
    shipped!("posture/audit-key-guards-itself.sql"),
    shipped!("posture/decrypt-on-all-keys.sql"),
    shipped!("posture/deletion-pending.sql"),
    shipped!("posture/duties-not-separated.sql"),
    shipped!("posture/grant-stale.sql"),
    shipped!("posture/key-open.sql"),
    shipped!("posture/key-unused.sql"),
    shipped!("posture/key-without-owner.sql"),
    shipped!("posture/material-expiring.sql"),
    shipped!("posture/multi-region-without-need.sql"),
    shipped!("posture/rotation-off.sql"),
    shipped!("posture/rotation-overdue.sql"),
];

/// Writes every shipped file below `dir`; existing files are left alone.
pub(crate) fn write(dir: &Path) -> std::io::Result<()> {
    FILES.iter().try_for_each(|file| write_one(dir, file))
}

/// Writes the fixtures alone, for a folder of other rules.
pub(crate) fn write_fixtures(dir: &Path) -> std::io::Result<()> {
    FILES.iter().filter(|(path, _)| path.starts_with("fixtures/")).try_for_each(|file| write_one(dir, file))
}

fn write_one(dir: &Path, (path, text): &(&str, &str)) -> std::io::Result<()> {
    let file = dir.join(path);
    if file.exists() {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_file_below_rules_is_listed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
        let mut open = vec![root.clone()];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        let mut listed: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
