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
    shipped!("fixtures/create-grant.json"),
    shipped!("fixtures/create-key-public.json"),
    shipped!("fixtures/decrypt.json"),
    shipped!("fixtures/describe-key.json"),
    shipped!("fixtures/disable-key.json"),
    shipped!("fixtures/integrity.json"),
    shipped!("fixtures/put-key-policy-fenced.json"),
    shipped!("fixtures/put-key-policy-public.json"),
    shipped!("fixtures/put-key-policy.json"),
    shipped!("fixtures/put-quarantine.json"),
    shipped!("fixtures/responder-disable-key.json"),
    shipped!("fixtures/revoke-grant.json"),
    shipped!("fixtures/schedule-key-deletion.json"),
    shipped!("kms/break-glass-used.sql"),
    shipped!("kms/decrypt-spike.sql"),
    shipped!("kms/decrypt-spike-per-key.sql"),
    shipped!("kms/denied-burst.sql"),
    shipped!("kms/disabled-key-used.sql"),
    shipped!("kms/dormant-key-used.sql"),
    shipped!("kms/dormant-principal.sql"),
    shipped!("kms/first-seen-network.sql"),
    shipped!("kms/first-seen-principal-key.sql"),
    shipped!("kms/first-seen-region-or-agent.sql"),
    shipped!("kms/grant-broad.sql"),
    shipped!("kms/grant-to-self.sql"),
    shipped!("kms/grants-ended-en-masse.sql"),
    shipped!("kms/key-deletion-scheduled.sql"),
    shipped!("kms/key-disabled.sql"),
    shipped!("kms/key-policy-public.sql"),
    shipped!("kms/log-erased.sql"),
    shipped!("kms/many-contexts.sql"),
    shipped!("kms/mfa-less-destructive.sql"),
    shipped!("kms/responder-without-action.sql"),
    shipped!("kms/service-path-bypassed.sql"),
    shipped!("kms/sign-spike.sql"),
    shipped!("kms/signing-key-new-signer.sql"),
    shipped!("meta/audit-chain-gap.sql"),
    shipped!("meta/rule-health.sql"),
    shipped!("playbooks/credential-misuse.toml"),
    shipped!("playbooks/exposure-author.toml"),
    shipped!("playbooks/key-deletion-scheduled.toml"),
    shipped!("playbooks/key-policy-public.toml"),
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
