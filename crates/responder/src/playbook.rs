//! A playbook: which alerts it answers and with which steps. One TOML file each, `rules/playbooks/<id>.toml`.
//!
//! Everything unknown is refused at load, with file and line, and a set with one bad file is refused whole: a typo in a
//! step must not become a step that silently does nothing. What a step does lives in `act`, when it may in `guard`.

use crate::intake::verify::Call;
use crate::rehearse::TestCase;
use keytrail_kms::approval::QUORUM;
use keytrail_kms::chain::leaf::sha256;
use keytrail_trail::alert::Alert;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keytrail_trail::alert::Severity;

/// Most playbook files that are read from a folder.
const PLAYBOOKS_MAX: usize = 200;
/// Largest playbook file in bytes.
const PLAYBOOK_BYTES_MAX: u64 = 64 * 1024;
/// Longest quarantine or required second factor a playbook may ask for: it always ends by itself within a day, a person may
/// renew it.
const QUARANTINE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Seconds that people may be given to agree: the key service's bounds.
const APPROVAL_TTL: std::ops::RangeInclusive<u64> = 60..=24 * 3600;

/// One playbook as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Playbook {
    /// Same as the file's name without `.toml`.
    pub id: String,
    /// Raised with every change; part of each action id.
    pub version: u32,
    /// What it may do by itself.
    pub mode: Mode,
    /// One line for people.
    #[serde(default)]
    pub title: Option<String>,
    /// Which alerts it answers.
    #[serde(rename = "match")]
    pub matches: Matches,
    /// Bounds of its own.
    #[serde(default)]
    pub guard: GuardSettings,
    /// What it does, in this order for one target.
    pub steps: Vec<Step>,
    /// What it must do and leave undone: `keytrail playbook test`.
    #[serde(default, rename = "test")]
    pub tests: Vec<TestCase>,
}

/// How far a playbook goes. The order is the order of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Does nothing.
    Off,
    /// Plans, guards and records, never acts.
    Observe,
    /// Acts.
    Enforce,
}

/// Which alerts a playbook answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matches {
    /// Rule ids.
    pub rules: Vec<String>,
    /// Alerts below this are left alone.
    pub min_severity: Severity,
    /// Which calls of the evidence count.
    pub provenance: Vec<Provenance>,
    /// What the alert's labels must say; a name that begins with `tag:` is a tag that the key of a call must have had.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Beginning of a label's name that is about the key's tags.
const TAG: &str = "tag:";

impl Matches {
    /// Whether the alert as a whole is one of these.
    pub fn takes(&self, alert: &Alert) -> bool {
        let mut labels = self.labels.iter().filter(|(name, _)| !name.starts_with(TAG));
        self.rules.contains(&alert.rule_id)
            && alert.severity >= self.min_severity
            && labels.all(|(name, value)| alert.labels.get(name) == Some(value))
    }

    /// Whether a call of its evidence counts.
    pub fn counts(&self, call: &Call) -> bool {
        let mut tags = self.labels.iter().filter_map(|(name, value)| Some((name.strip_prefix(TAG)?, value)));
        self.provenance.contains(&call.provenance) && tags.all(|(name, value)| call.tag(name) == Some(value))
    }
}

/// How far a call in the evidence came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// No verified signature: anyone can cause it, in anyone's name.
    Unauthenticated,
    /// A verified signature, and the call failed.
    AuthenticatedDenied,
    /// A verified signature, and the call took effect.
    AuthenticatedAllowed,
}

/// A playbook's own bounds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSettings {
    /// The same action on the same target waits this long.
    #[serde(with = "humantime_serde")]
    pub cooldown: Duration,
    /// Actions in any hour before the rest is held.
    pub max_actions_per_hour: u32,
    /// Of the keys that can be used, the share that may be disabled in an hour once three were: 0.05 is one in twenty.
    pub max_share_of_enabled_keys: Option<f64>,
    /// Names of maintenance windows that hold what it would do; no other window does.
    pub held_by: Vec<String>,
}

impl GuardSettings {
    fn fault(&self) -> Option<String> {
        if self.max_share_of_enabled_keys.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Some("max_share_of_enabled_keys must be above 0 and at most 1".into());
        }
        self.held_by.iter().any(String::is_empty).then(|| "held_by names nothing".into())
    }
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(10),
            max_actions_per_hour: 30,
            max_share_of_enabled_keys: None,
            held_by: Vec::new(),
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What to do.
    pub action: StepAction,
    /// What a failure means for the later steps on the same target.
    #[serde(default)]
    pub on_error: OnError,
    /// How long a quarantine or a required second factor lasts; only there, and required there.
    #[serde(default, with = "humantime_serde")]
    pub ttl: Option<Duration>,
    /// People must agree first.
    #[serde(default)]
    pub approval: Option<ApprovalTerms>,
    /// `name=value`: only for keys that carried this tag at the time of the offending call; only of `disable_key`.
    #[serde(default)]
    pub only_if_tag: Option<String>,
    /// On the keys of the evidence or on all of the account; of quarantines (everywhere when left out) and required
    /// second factors (the key when left out).
    #[serde(default)]
    pub scope: Option<Scope>,
    /// Which grants are revoked; only there, and required there.
    #[serde(default)]
    pub which: Option<Which>,
    /// Calls that want a second factor, without `kms:`; only there. Destructive ones when left out.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Which of `[responder.call_outs]`; only of a call-out, and required there.
    #[serde(default)]
    pub name: Option<String>,
}

/// How far a quarantine or a required second factor reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The keys of the evidence.
    Key,
    /// Everything of the principal, or all keys of the account.
    Account,
}

/// Which grants a step revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Those that the alert is about.
    Evidence,
    /// All that their grantees have on the key.
    Grantee,
}

/// What wants a second factor when a step does not say: the calls that AWS's whitepaper names, and the one that opens a
/// key beside its policy.
const MFA_ACTIONS: [&str; 5] =
    ["PutKeyPolicy", "ScheduleKeyDeletion", "DeleteAlias", "DeleteImportedKeyMaterial", "CreateGrant"];
/// How people agree to a step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalTerms {
    /// How many of them.
    pub quorum: u8,
    /// How long they have.
    #[serde(default = "approval_ttl", with = "humantime_serde")]
    pub ttl: Duration,
    /// What happens when they did not.
    #[serde(default)]
    pub on_expiry: OnExpiry,
}

/// What happens when nobody agreed in time. There is no value that acts all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    /// It stays held, and people are paged.
    #[default]
    Escalate,
}

/// As long as an attack may be watched for.
fn approval_ttl() -> Duration {
    Duration::from_secs(30 * 60)
}

/// What a playbook may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// Deny the principal every change and cryptographic use for a while.
    QuarantinePrincipal,
    /// Cancel a scheduled deletion and give the key back the state it had.
    CancelKeyDeletion,
    /// Put back the policy from before the offending call, if nobody changed it since.
    RestoreKeyPolicy,
    /// Disable the key.
    DisableKey,
    /// Write down how the keys of the evidence look, before anything is changed.
    SnapshotEvidence,
    /// Revoke grants that were made.
    RevokeGrants,
    /// Ask for a fresh second factor for administrative calls for a while.
    RequireMfa,
    /// Point an alias back to the key that it had, if nobody moved it since.
    AliasRestore,
    /// Withdraw the access key that made the calls.
    DeactivateAccessKey,
    /// Call a webhook of the site's own.
    CallOut,
}

impl StepAction {
    /// About the caller, or about nothing in the KMS: what denied calls may lead to as well.
    fn needs_no_key(self) -> bool {
        matches!(self, Self::QuarantinePrincipal | Self::DeactivateAccessKey | Self::SnapshotEvidence | Self::CallOut)
    }
}

/// What a failed step means for the later ones on the same target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// They run all the same.
    #[default]
    Continue,
    /// They are suppressed.
    Stop,
}

/// Why a set of playbooks was refused.
#[derive(Debug, thiserror::Error)]
pub enum PlaybookError {
    /// The folder or a file cannot be read.
    #[error("playbook {path} cannot be read")]
    Read {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML of the right shape; the cause names line and column.
    #[error("playbook {path} is malformed")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Well-formed, but not allowed.
    #[error("playbook {path} is refused: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Playbook {
    /// Reads one playbook; `path` is for messages and for the rule that file and id are named alike.
    pub fn parse(path: &Path, text: &str) -> Result<Self, PlaybookError> {
        let playbook: Self = toml::from_str(text)
            .map_err(|source| PlaybookError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        match playbook.fault(path) {
            Some(reason) => Err(PlaybookError::Refused { path: path.to_owned(), reason }),
            None => Ok(playbook),
        }
    }

    fn fault(&self, path: &Path) -> Option<String> {
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(self.id.as_str()) {
            return Some(format!("its id is {:?}, which is not the file's name", self.id));
        }
        if self.version == 0 {
            return Some("version starts at 1".into());
        }
        if self.matches.rules.is_empty() || self.matches.provenance.is_empty() || self.steps.is_empty() {
            return Some("rules, provenance and steps must not be empty".into());
        }
        if self.matches.provenance.contains(&Provenance::Unauthenticated) {
            return Some("unauthenticated calls never lead to an action".into());
        }
        if let Some(fault) = self.guard.fault().or_else(|| self.tests.iter().find_map(TestCase::fault)) {
            return Some(fault);
        }
        if self.matches.labels.iter().any(|(name, _)| name.is_empty() || name == TAG) {
            return Some("a label has no name".into());
        }
        self.steps.iter().enumerate().find_map(|(index, step)| {
            step.fault(&self.matches.provenance).map(|reason| format!("step {}: {reason}", index + 1))
        })
    }
}

impl Step {
    /// The calls that want a second factor.
    pub fn mfa_actions(&self) -> Vec<String> {
        if self.actions.is_empty() { MFA_ACTIONS.map(str::to_owned).to_vec() } else { self.actions.clone() }
    }

    fn fault(&self, provenance: &[Provenance]) -> Option<String> {
        if !self.action.needs_no_key() && provenance.contains(&Provenance::AuthenticatedDenied) {
            return Some("key-level actions need provenance = [\"authenticated_allowed\"]".into());
        }
        self.misplaced().or_else(|| self.ttl_fault()).or_else(|| self.tag_fault()).or_else(|| self.approval_fault())
    }

    /// A field that is missing where it belongs, or stands where it does not.
    fn misplaced(&self) -> Option<String> {
        use StepAction::{CallOut, DisableKey, QuarantinePrincipal, RequireMfa, RevokeGrants};
        let of = |kinds: &[StepAction]| kinds.contains(&self.action);
        let fields = [
            ("ttl", self.ttl.is_some(), of(&[QuarantinePrincipal, RequireMfa]), true),
            ("scope", self.scope.is_some(), of(&[QuarantinePrincipal, RequireMfa]), false),
            ("which", self.which.is_some(), of(&[RevokeGrants]), true),
            ("actions", !self.actions.is_empty(), of(&[RequireMfa]), false),
            ("name", self.name.is_some(), of(&[CallOut]), true),
            ("only_if_tag", self.only_if_tag.is_some(), of(&[DisableKey]), false),
        ];
        fields.into_iter().find_map(|(field, given, belongs, required)| match (given, belongs) {
            (true, false) => Some(format!("{field} does not belong to this action")),
            (false, true) if required => Some(format!("this action needs {field}")),
            _ => None,
        })
    }

    fn ttl_fault(&self) -> Option<String> {
        let limits = Duration::from_secs(60)..=QUARANTINE_TTL_MAX;
        let outside = self.ttl.is_some_and(|ttl| !limits.contains(&ttl));
        outside.then(|| "ttl must be between 1m and 24h".into())
    }

    fn approval_fault(&self) -> Option<String> {
        let terms = self.approval.as_ref()?;
        if !QUORUM.contains(&terms.quorum) {
            return Some("quorum must be between 1 and 5".into());
        }
        let outside = !APPROVAL_TTL.contains(&terms.ttl.as_secs());
        outside.then(|| "the ttl of an approval must be between 1m and 24h".into())
    }

    fn tag_fault(&self) -> Option<String> {
        let malformed = self.only_if_tag.as_ref().is_some_and(|tag| !tag.contains('='));
        malformed.then(|| "only_if_tag must be name=value".into())
    }
}

/// Reads every `*.toml` in `dir`, in order of id.
pub fn load(dir: &Path) -> Result<Vec<Playbook>, PlaybookError> {
    Ok(load_hashed(dir)?.0)
}

/// The same, and SHA-256 of each file by the playbook's id.
pub fn load_hashed(dir: &Path) -> Result<(Vec<Playbook>, BTreeMap<String, String>), PlaybookError> {
    let (mut playbooks, mut hashes) = (Vec::new(), BTreeMap::new());
    for (path, text) in texts(dir)? {
        let playbook = Playbook::parse(&path, &text)?;
        hashes.insert(playbook.id.clone(), hex::encode(sha256(&[text.as_bytes()])));
        playbooks.push(playbook);
    }
    Ok((playbooks, hashes))
}

fn texts(dir: &Path) -> Result<Vec<(PathBuf, String)>, PlaybookError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PlaybookError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read_error(dir))? {
        let path = entry.map_err(read_error(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > PLAYBOOKS_MAX {
        let reason = format!("the folder holds {} playbooks, the limit is {PLAYBOOKS_MAX}", paths.len());
        return Err(PlaybookError::Refused { path: dir.to_owned(), reason });
    }
    let mut texts = Vec::new();
    for path in paths {
        let length = std::fs::metadata(&path).map_err(read_error(&path))?.len();
        if length > PLAYBOOK_BYTES_MAX {
            let reason = format!("it has {length} bytes, the limit is {PLAYBOOK_BYTES_MAX}");
            return Err(PlaybookError::Refused { path, reason });
        }
        let text = std::fs::read_to_string(&path).map_err(read_error(&path))?;
        texts.push((path, text));
    }
    Ok(texts)
}

impl fmt::Display for StepAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuarantinePrincipal => "quarantine_principal",
            Self::CancelKeyDeletion => "cancel_key_deletion",
            Self::RestoreKeyPolicy => "restore_key_policy",
            Self::DisableKey => "disable_key",
            Self::SnapshotEvidence => "snapshot_evidence",
            Self::RevokeGrants => "revoke_grants",
            Self::RequireMfa => "require_mfa",
            Self::AliasRestore => "alias_restore",
            Self::DeactivateAccessKey => "deactivate_access_key",
            Self::CallOut => "call_out",
        })
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthenticated => "unauthenticated",
            Self::AuthenticatedDenied => "authenticated_denied",
            Self::AuthenticatedAllowed => "authenticated_allowed",
        })
    }
}

impl Mode {
    /// Reads what `Display` writes.
    pub fn read(text: &str) -> Option<Self> {
        [Self::Off, Self::Observe, Self::Enforce].into_iter().find(|mode| mode.to_string() == text)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
id = "p"
version = 1
mode = "enforce"
steps = [{ action = "quarantine_principal", ttl = "1h", on_error = "continue" }]
[match]
rules = ["r"]
min_severity = "medium"
provenance = ["authenticated_denied"]
"#;

    fn parse(text: &str) -> Result<Playbook, PlaybookError> {
        Playbook::parse(Path::new("p.toml"), text)
    }

    #[test]
    fn a_good_playbook_is_read() {
        let playbook = parse(GOOD).unwrap();
        assert_eq!(playbook.mode, Mode::Enforce);
        assert_eq!(playbook.steps[0].ttl, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn bad_playbooks_are_refused() {
        let cases = [
            ("ttl = \"1h\"", "tll = \"1h\""),
            ("mode = \"enforce\"", "mode = \"yes\""),
            ("id = \"p\"", "id = \"q\""),
            ("version = 1", "version = 0"),
            (", ttl = \"1h\"", ""),
            ("\"1h\"", "\"25h\""),
            ("authenticated_denied", "unauthenticated"),
            ("quarantine_principal\", ttl = \"1h\"", "disable_key\""),
            ("ttl = \"1h\"", "ttl = \"1h\", only_if_tag = \"a=b\""),
            ("quarantine_principal", "delete_key"),
            ("ttl = \"1h\"", "ttl = \"1h\", scope = \"world\""),
            ("ttl = \"1h\"", "ttl = \"1h\", which = \"evidence\""),
            ("ttl = \"1h\"", "ttl = \"1h\", name = \"x\""),
            ("ttl = \"1h\"", "ttl = \"1h\", actions = [\"PutKeyPolicy\"]"),
            ("ttl = \"1h\"", "ttl = \"30s\""),
            ("quarantine_principal\", ttl = \"1h\"", "call_out\""),
            ("quarantine_principal\"", "snapshot_evidence\""),
            ("quarantine_principal", "require_mfa"),
            ("ttl = \"1h\"", "ttl = \"1h\", approval = { quorum = 0 }"),
            ("ttl = \"1h\"", "ttl = \"1h\", approval = { quorum = 6 }"),
            ("ttl = \"1h\"", "ttl = \"1h\", approval = { quorum = 2, ttl = \"30s\" }"),
            ("ttl = \"1h\"", "ttl = \"1h\", approval = { quorum = 2, on_expiry = \"approve\" }"),
            ("min_severity = \"medium\"", "min_severity = \"loud\""),
            ("min_severity = \"medium\"", "min_severity = \"medium\"\nlabels = { env = 1 }"),
            ("min_severity = \"medium\"", "min_severity = \"medium\"\nlabels = { \"tag:\" = \"x\" }"),
            ("[match]", "[guard]\nmax_share_of_enabled_keys = 1.5\n[match]"),
            ("[match]", "[guard]\nheld_by = [\"\"]\n[match]"),
            ("[match]", "[guard]\nmax_share = 0.5\n[match]"),
            (
                "[match]",
                "[[test]]\nname = \"n\"\nrule = \"r\"\ngiven = []\nexpect = [{ action = \"a\", held_by = \"b\" }]\n[match]",
            ),
            ("[match]", "[[test]]\nname = \"n\"\nrule = \"r\"\n[match]"),
        ];
        for (from, to) in cases {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            assert!(parse(&text).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn each_new_step_is_read_with_its_fields_only() {
        let steps = [
            (r#"action = "snapshot_evidence""#, true),
            (r#"action = "quarantine_principal", scope = "key", ttl = "1h""#, true),
            (r#"action = "deactivate_access_key""#, true),
            (r#"action = "call_out", name = "ticket""#, true),
            (r#"action = "revoke_grants", which = "grantee""#, false),
            (r#"action = "require_mfa", ttl = "1h", scope = "account", actions = ["PutKeyPolicy"]"#, false),
            (r#"action = "alias_restore""#, false),
        ];
        for (step, of_denied) in steps {
            let denied = GOOD.replace(r#"action = "quarantine_principal", ttl = "1h""#, step);
            assert_eq!(parse(&denied).is_ok(), of_denied, "{step}");
            let allowed = denied.replace("authenticated_denied", "authenticated_allowed");
            let playbook = parse(&allowed).unwrap();
            assert_eq!(playbook.steps.len(), 1, "{step}");
        }
        let mfa = GOOD.replace("quarantine_principal", "require_mfa").replace("_denied", "_allowed");
        assert!(parse(&mfa).unwrap().steps[0].mfa_actions().contains(&"PutKeyPolicy".to_owned()));
    }

    #[test]
    fn the_shipped_playbooks_load() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules/playbooks");
        let ids: Vec<String> = load(&dir).unwrap().into_iter().map(|playbook| playbook.id).collect();
        let expected = [
            "access-key-stolen",
            "alias-repointed",
            "credential-misuse",
            "exposure-author",
            "grant-unwanted",
            "key-deletion-scheduled",
            "key-policy-lockout",
            "key-policy-public",
            "mfa-less-destructive",
            "self-test",
        ];
        assert_eq!(ids, expected);
    }
}
