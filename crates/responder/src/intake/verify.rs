//! What makes bytes an alert: the trail's signature, a rule we know by hash, and evidence that the log provably holds.
//!
//! [`VerifiedAlert`] can only be had from [`Verifier::verify`], so planning on anything else does not compile. Who and
//! which key an alert is about is taken from the evidence, never from the alert's own words: whoever holds the trail's
//! key still cannot point us at a principal that did nothing.

use crate::config::AllowedRule;
use crate::guard::role_of_session;
use crate::intake::RawAlert;
use crate::playbook::Provenance;
use keytrail_kms::chain::LogKeys;
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::event::{AuditEvent, SOURCE_KMS};
use keytrail_trail::alert::grouping::role;
use keytrail_trail::alert::{Alert, AlertError, SignedAlert, VerifiedEvidence, verify_evidence};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Error codes of calls whose signature was not verified: the name in such an event is only a claim.
const UNVERIFIED_CALLER: [&str; 10] = [
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidSignature",
    "InvalidSignatureException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
    "UnrecognizedClientException",
];

/// Most imported logs whose keys are looked at, and longest key.
const IMPORTS_MAX: usize = 1_000;
const VKEY_BYTES_MAX: u64 = 4_096;

/// Resource part of the ARNs of Keytrail's own principals.
const BUILT_IN: &str = ":keytrail/";
/// Ending of our own principal's ARN.
const RESPONDER: &str = ":keytrail/responder";

/// Why bytes are not an alert we believe.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The signature has another length than Ed25519's.
    #[error("signature is missing or malformed")]
    Signature,
    /// Signature, id, checkpoint or evidence do not verify.
    #[error("alert does not verify")]
    Alert(#[from] AlertError),
    /// No rule of our set has this id and hash.
    #[error("rule {rule} with this hash is not in the allow-list")]
    Rule {
        /// The rule's id, as claimed.
        rule: String,
    },
    /// It is about an imported log whose key is not here.
    #[error("imported log {origin} has no key here")]
    Import {
        /// Its name, as claimed.
        origin: String,
    },
    /// The trail says it is about somebody of whom it shows nothing.
    #[error("evidence names none of the calls of the principal that the alert is about")]
    Principal,
}

impl Refusal {
    /// A short name to count and coalesce by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Signature | Self::Alert(AlertError::Signature) => "signature",
            Self::Alert(AlertError::Checkpoint(_) | AlertError::Log) => "checkpoint",
            Self::Alert(AlertError::NotIncluded { .. } | AlertError::EvidenceMalformed { .. }) => "evidence",
            Self::Alert(_) => "malformed",
            Self::Rule { .. } => "rule",
            Self::Import { .. } => "import",
            Self::Principal => "principal",
        }
    }
}

/// Holds the two keys and the allow-list.
pub struct Verifier {
    trail: VerifyKey,
    log: LogKeys,
    rules: HashSet<AllowedRule>,
    /// Folder with a folder for each imported log, and its key.
    imports: Option<PathBuf>,
}

impl Verifier {
    /// `trail` signs alerts, `log` signs checkpoints.
    pub fn new(trail: VerifyKey, log: LogKeys, rules: Vec<AllowedRule>) -> Self {
        Self { trail, log, rules: rules.into_iter().collect(), imports: None }
    }

    /// Believes alerts about the imported logs of this data folder, too, each under the key that lies there. They can only be told:
    /// no action follows from them (`guard`).
    pub fn with_imports(self, data_dir: &Path) -> Self {
        Self { imports: Some(data_dir.join("imports")), ..self }
    }

    /// The keys that the alert's evidence has to stand under.
    fn keys(&self, alert: &Alert) -> Result<Cow<'_, LogKeys>, Refusal> {
        if !alert.is_imported() {
            return Ok(Cow::Borrowed(&self.log));
        }
        let unknown = || Refusal::Import { origin: alert.origin.chars().take(100).collect() };
        let folders = self.imports.as_ref().and_then(|imports| std::fs::read_dir(imports).ok()).ok_or_else(unknown)?;
        let keys = folders.flatten().take(IMPORTS_MAX).filter_map(|folder| key_of(&folder.path().join("vkey")));
        let mut own = keys.filter(|key| key.name() == alert.origin);
        own.next().map(|key| Cow::Owned(LogKeys::from(key))).ok_or_else(unknown)
    }

    /// Replaces the allow-list, after the rules were loaded anew.
    pub fn allow(&mut self, rules: Vec<AllowedRule>) {
        self.rules = rules.into_iter().collect();
    }

    /// All checks, cheapest first.
    pub fn verify(&self, raw: &RawAlert) -> Result<VerifiedAlert, Refusal> {
        let signature = raw.signature.as_slice().try_into().map_err(|_| Refusal::Signature)?;
        let alert = SignedAlert { json: raw.json.clone(), signature }.verify(&self.trail)?;
        let rule = AllowedRule { id: alert.rule_id.clone(), hash: alert.rule_hash.clone() };
        if !self.rules.contains(&rule) {
            return Err(Refusal::Rule { rule: rule.id });
        }
        let imported = alert.is_imported();
        let calls = verify_evidence(&alert, &*self.keys(&alert)?)?.into_iter().map(Call::of);
        let calls = calls.map(|call| Call { imported, ..call }).collect();
        let verified = VerifiedAlert { alert, calls };
        match verified.claimed_principal() {
            Some(claimed) if !verified.calls.iter().any(|call| is_call_of(call, claimed)) => Err(Refusal::Principal),
            _ => Ok(verified),
        }
    }
}

/// An alert that passed every check.
#[derive(Clone, Debug)]
pub struct VerifiedAlert {
    alert: Alert,
    calls: Vec<Call>,
}

impl VerifiedAlert {
    /// The trail's words: title, rule, severity, counts.
    pub fn alert(&self) -> &Alert {
        &self.alert
    }

    /// The calls that the log provably holds, in seq order.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Whether it is about an imported log.
    pub fn is_imported(&self) -> bool {
        self.alert.is_imported()
    }

    /// Whether the evidence is all there is, not a selection.
    pub fn is_complete(&self) -> bool {
        u64::try_from(self.calls.len()) == Ok(self.alert.evidence_total)
    }

    /// The one principal that this alert is about: the rule's group, or the only one in the evidence, where the sessions
    /// of a role are one: the last of them, for they are stopped together. So it is where the group is a role.
    pub fn principal(&self) -> Option<&str> {
        let mut principals = self.calls.iter().filter_map(|call| call.principal.as_deref());
        if let Some(claimed) = self.claimed_principal() {
            let last = self.calls.iter().rfind(|call| is_call_of(call, claimed));
            return last.and_then(|call| call.principal.as_deref()).or(Some(claimed));
        }
        let last = principals.next_back()?;
        let role = role_of_session(last);
        principals.all(|other| other == last || role.is_some() && role_of_session(other) == role).then_some(last)
    }

    /// The keys in the evidence.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.calls.iter().filter_map(|call| call.key_arn.as_deref()).collect()
    }

    fn claimed_principal(&self) -> Option<&str> {
        let group = self.alert.group_by.iter().find(|group| group.name == "principal_arn")?;
        // An empty claim is no claim.
        group.value.as_deref().filter(|arn| !arn.is_empty())
    }

    /// For tests of what comes after verification.
    #[cfg(test)]
    pub(crate) fn unchecked(alert: Alert, calls: Vec<Call>) -> Self {
        Self { alert, calls }
    }
}

/// Whether it is one of the principal that a rule names: a rule names the role for all of its sessions.
fn is_call_of(call: &Call, named: &str) -> bool {
    call.principal.as_deref().is_some_and(|caller| caller == named || role(caller) == named)
}

/// What happened to an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedAlias<'a> {
    /// Its ARN.
    pub arn: &'a str,
    /// The key that it had.
    pub from: &'a str,
    /// The key that it has since; none when it was deleted.
    pub to: Option<&'a str>,
    /// eventID that had given it the key that it had.
    pub set_by: Option<&'a str>,
}

/// One call of the evidence, with what planning asks of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its index in the log.
    pub seq: u64,
    /// Who called, if anyone in particular.
    pub principal: Option<String>,
    /// How far it came.
    pub provenance: Provenance,
    /// The key it touched.
    pub key_arn: Option<String>,
    /// AWS wrote it, which says nothing about how the key was before and after.
    pub imported: bool,
    /// The event itself.
    pub event: AuditEvent,
}

impl Call {
    /// Reads what matters out of a verified record.
    pub fn of(evidence: VerifiedEvidence) -> Self {
        let event = evidence.event;
        Self {
            seq: evidence.leaf.seq,
            principal: event.user_identity.arn.clone(),
            provenance: provenance(&event),
            key_arn: key_arn(&event),
            imported: false,
            event,
        }
    }

    /// A change of a key that took effect: what key-level actions need.
    pub fn is_allowed_administration(&self) -> bool {
        self.provenance == Provenance::AuthenticatedAllowed
            && self.event.event_source == SOURCE_KMS
            && !self.event.read_only
            && self.event.additional_event_data.repeat_of.is_none()
            && (self.imported || self.event.additional_event_data.after.is_some())
    }

    /// The alias that this call moved away from a key or deleted, if it took effect.
    pub fn moved_alias(&self) -> Option<MovedAlias<'_>> {
        let event = &self.event;
        let moves = matches!(event.event_name.as_str(), "UpdateAlias" | "DeleteAlias");
        let data = &event.additional_event_data;
        if !moves
            || self.provenance != Provenance::AuthenticatedAllowed
            || event.event_source != SOURCE_KMS
            || event.read_only
            || data.repeat_of.is_some()
        {
            return None;
        }
        let arn = self.before("aliasArn")?;
        let resource = event.resources.iter().any(|resource| resource.kind == "AWS::KMS::Alias" && resource.arn == arn);
        let same = self.after("aliasArn").is_none_or(|after| after == arn);
        if !resource || !same || (event.event_name == "UpdateAlias") != data.after.is_some() {
            return None;
        }
        let (from, to) = (self.before("targetKeyArn")?, self.after("targetKeyArn"));
        Some(MovedAlias { arn, from, to, set_by: self.more("previousTargetEventId") })
    }

    /// Made with this long-term access key of the caller's own, or claiming so; a service's key is not its user's.
    pub fn claims_access_key(&self, id: &str) -> bool {
        let identity = &self.event.user_identity;
        identity.access_key_id.as_deref() == Some(id) && identity.invoked_by.is_none()
    }

    /// Made under the name of Keytrail's own responder.
    pub fn is_responders(&self) -> bool {
        self.provenance != Provenance::Unauthenticated
            && self.principal.as_deref().is_some_and(|arn| arn.ends_with(RESPONDER))
    }

    /// The action id, honoured by the KMS only from the responder.
    pub fn action_id(&self) -> Option<&str> {
        self.is_responders().then_some(self.event.additional_event_data.action_id.as_deref()).flatten()
    }

    /// A member of the key image before the call.
    pub fn before(&self, member: &str) -> Option<&str> {
        self.event.additional_event_data.before.as_ref()?.get(member)?.as_str()
    }

    /// A member of the key image after the call.
    pub fn after(&self, member: &str) -> Option<&str> {
        self.event.additional_event_data.after.as_ref()?.get(member)?.as_str()
    }

    /// A member that the operation added.
    pub fn more(&self, member: &str) -> Option<&str> {
        self.event.additional_event_data.more.get(member)?.as_str()
    }

    /// The value of a tag that the key had right after the call.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.event.additional_event_data.after.as_ref()?.get("tags")?.get(name)?.as_str()
    }
}

/// True for Keytrail's own principals, which nothing acts on.
pub(crate) fn is_built_in(arn: &str) -> bool {
    arn.contains(BUILT_IN)
}

fn key_of(path: &Path) -> Option<VerifyKey> {
    let mut text = String::new();
    File::open(path).ok()?.take(VKEY_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn provenance(event: &AuditEvent) -> Provenance {
    let known = matches!(event.user_identity.kind.as_deref(), Some("IAMUser" | "Root" | "AssumedRole" | "AWSAccount"));
    let built_in = event.user_identity.arn.as_deref().is_some_and(is_built_in);
    let error = event.error_code.as_deref();
    if event.user_identity.arn.is_none()
        || !(known || built_in)
        || error.is_some_and(|code| UNVERIFIED_CALLER.contains(&code))
    {
        return Provenance::Unauthenticated;
    }
    match error {
        None => Provenance::AuthenticatedAllowed,
        Some(_) => Provenance::AuthenticatedDenied,
    }
}

/// The key in `resources`; the key image must not say otherwise.
fn key_arn(event: &AuditEvent) -> Option<String> {
    let mut keys = event.resources.iter().filter(|resource| resource.kind == "AWS::KMS::Key");
    let arn = keys.next().map(|resource| resource.arn.clone())?;
    let image = event.additional_event_data.after.as_ref().and_then(|after| after.get("keyArn"));
    let agrees = keys.next().is_none() && image.is_none_or(|image| image == &Value::String(arn.clone()));
    (agrees && arn.starts_with("arn:")).then_some(arn)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Bench, event};
    use keytrail_kms::chain::checkpoint::SigningKey;

    #[test]
    fn a_signed_alert_of_a_known_rule_with_evidence_is_believed() {
        let bench = Bench::new();
        let raw = bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]).raw(1);
        let alert = bench.verifier().verify(&raw).unwrap();
        assert_eq!(alert.principal(), Some("arn:aws:iam::111122223333:user/mallory"));
        assert_eq!(alert.calls()[0].provenance, Provenance::AuthenticatedDenied);
        assert!(alert.is_complete());
    }

    #[test]
    fn forgeries_are_refused_with_their_kind() {
        let bench = Bench::new();
        let good = || bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]);
        let refused = |raw: RawAlert| bench.verifier().verify(&raw).unwrap_err().kind();

        let mut cut = good().raw(1);
        cut.signature.pop();
        assert_eq!(refused(cut), "signature");
        let mut changed = good().raw(1);
        changed.json[20] ^= 1;
        assert_eq!(refused(changed), "signature");
        assert_eq!(refused(good().signed_by_stranger().raw(1)), "signature");
        assert_eq!(refused(good().rule_hash("00").raw(1)), "rule");
        assert_eq!(refused(good().checkpoint_by_stranger().raw(1)), "checkpoint");
        assert_eq!(refused(good().evidence_changed().raw(1)), "evidence");
        assert_eq!(refused(good().about("arn:aws:iam::111122223333:user/alice").raw(1)), "principal");
        let session = || bench.alert("denied-burst", vec![event("Decrypt").denied().in_role("app", None)]);
        assert_eq!(refused(session().about("arn:aws:iam::111122223333:role/web").raw(1)), "principal");
        assert!(bench.verifier().verify(&session().about("arn:aws:iam::111122223333:role/app").raw(1)).is_ok());
    }

    #[test]
    fn an_alert_about_an_imported_log_stands_under_the_key_that_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let import = SigningKey::from_seed("keytrail-import/aws-01", &[5; 32]).unwrap();
        let raw = || {
            let event = event("DisableKey").by("mallory").on_key("k1");
            Bench::new().alert("key-disabled", vec![event]).in_log(&import).raw(1)
        };
        let verifier = || Bench::new().verifier().with_imports(dir.path());
        assert_eq!(verifier().verify(&raw()).unwrap_err().kind(), "import");
        std::fs::create_dir_all(dir.path().join("imports/aws")).unwrap();
        std::fs::write(dir.path().join("imports/aws/vkey"), format!("{}\n", import.verify_key())).unwrap();
        assert!(verifier().verify(&raw()).unwrap().is_imported());
        // Nobody who does not look there believes it, and another key of that name is none.
        assert_eq!(Bench::new().verifier().verify(&raw()).unwrap_err().kind(), "import");
        let other = SigningKey::from_seed("keytrail-import/aws-01", &[6; 32]).unwrap();
        std::fs::write(dir.path().join("imports/aws/vkey"), other.verify_key().to_string()).unwrap();
        assert_eq!(verifier().verify(&raw()).unwrap_err().kind(), "checkpoint");
    }

    #[test]
    fn an_unsigned_call_never_counts_as_its_claimed_caller() {
        let call = event("Decrypt").by("victim").error("InvalidSignatureException").call(1);
        assert_eq!(call.provenance, Provenance::Unauthenticated);
        let mut anonymous = event("Decrypt").by("victim").call(1).event;
        anonymous.user_identity.kind = Some("Unknown".into());
        assert_eq!(provenance(&anonymous), Provenance::Unauthenticated);
    }

    #[test]
    fn a_key_that_event_and_image_name_differently_is_no_key() {
        let mut one = event("DisableKey").by("m").on_key("k1").call(1).event;
        assert!(key_arn(&one).is_some());
        one.additional_event_data.after = Some(serde_json::json!({ "keyArn": "arn:aws:kms:eu-west-1:1:key/other" }));
        assert_eq!(key_arn(&one), None);
    }
}
