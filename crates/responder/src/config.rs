//! What a responder is told: where the KMS and the alerts are, which rules it believes, whom it tells, what it may not
//! touch and how often it may act.
//!
//! [`Settings`] is the part that people write in the configuration file (unknown fields refused, durations in words);
//! [`ResponderConfig`] adds what the command finds out by itself. Secrets come from files named here.

use crate::http::settings::HttpSettings;
use crate::maintenance::Window;
use crate::notify::egress::Egress;
use crate::notify::receivers::ReceiverSettings;
use crate::notify::route::{InhibitSettings, RouteSettings};
use crate::playbook::Severity;
use crate::retention::KEEP_MIN;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::Trust;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// All that [`crate::Responder::start`] needs.
pub struct ResponderConfig {
    /// The data folder: holds `responder.db`, `run/`, and in embedded mode `trail.db` and `checkpoints/`.
    pub data_dir: PathBuf,
    /// Base address of the KMS: `http://127.0.0.1:8200`.
    pub endpoint: String,
    /// What TLS to it needs.
    pub trust: Trust,
    /// Region in the credential scope of our calls, but for those about a key of another region.
    pub region: String,
    /// Keys of the built-in principal `keytrail/responder`.
    pub credentials: Credentials,
    /// The rules whose alerts may lead to actions, each with the hash of its effective text.
    pub rules: Vec<AllowedRule>,
    /// Folder with `<id>.toml` playbooks.
    pub playbooks_dir: PathBuf,
    /// False: every playbook observes at most, whatever its own mode says.
    pub enforce: bool,
    /// Where alerts come from.
    pub alerts: AlertOrigin,
    /// The log signer's verify key; absent, `DIR/checkpoints/vkey` is read and pinned at first use.
    pub log_vkey: Option<String>,
    /// The trail's alert key; absent, `alert_vkey` in trail.db is read and pinned at first use.
    pub alert_vkey: Option<String>,
    /// The part from the configuration file.
    pub settings: Settings,
}

/// Where alerts are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertOrigin {
    /// The `alerts` table of `DIR/trail.db`, read-only.
    Table,
    /// A Kafka topic; `alert_vkey` must then be given, since there is no trail.db to pin from.
    Kafka {
        /// `host:port,host:port`.
        brokers: String,
        /// Usually `keytrail.alerts`.
        topic: String,
    },
}

/// A rule version that this responder believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowedRule {
    /// The rule's id.
    pub id: String,
    /// SHA-256 of its effective text, hex.
    pub hash: String,
}

/// The `[responder]` table of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Mail: the receiver named `mail`.
    pub smtp: Option<SmtpSettings>,
    /// Webhook: the receiver named `webhook`.
    pub webhook: Option<WebhookSettings>,
    /// Webhooks that playbooks call by name for a response of the site's own.
    pub call_outs: BTreeMap<String, WebhookSettings>,
    /// More receivers, by name.
    pub receivers: BTreeMap<String, ReceiverSettings>,
    /// Who is told of what; absent, everyone of everything.
    pub route: RouteSettings,
    /// Which incidents mute which.
    pub inhibit: Vec<InhibitSettings>,
    /// Where HTTP may go.
    pub egress: Egress,
    /// Keys and principals that are never acted on, only reported.
    pub protected: Protected,
    /// How often it may act.
    pub limits: Limits,
    /// When people are told.
    pub notify: NotifySettings,
    /// AWS accounts whose keys and principals are acted on through AWS itself.
    pub aws: Vec<AwsAccount>,
    /// Incidents over HTTP; absent: nobody listens.
    pub http: Option<HttpSettings>,
    /// When playbooks that say so hold back.
    pub maintenance: Vec<Window>,
    /// How often the self-test runs where it has its credential; `"0s"` switches it off.
    #[serde(deserialize_with = "nonzero_duration")]
    pub self_test_every: Option<Duration>,
    /// How long timelines, notices and bundles of closed incidents are kept, at least 35 days; absent: for ever.
    #[serde(deserialize_with = "long_enough")]
    pub keep: Option<Duration>,
}

/// An account at AWS that the responder drives: alerts about it come from imported CloudTrail records.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsAccount {
    /// Twelve digits.
    pub account: String,
    /// Imported logs whose records are believed about it: their names, as `keytrail import --name` has them.
    pub logs: Vec<String>,
    /// AWS shared-credentials file with a long-term access key of the responder's user there.
    pub credentials_file: PathBuf,
    /// The profile in it.
    #[serde(default = "default_profile")]
    pub profile: String,
    /// Instead of `https://kms.REGION.amazonaws.com`.
    #[serde(default)]
    pub kms_endpoint: Option<String>,
    /// Instead of `https://iam.amazonaws.com`.
    #[serde(default)]
    pub iam_endpoint: Option<String>,
}

fn default_profile() -> String {
    "default".to_owned()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            smtp: None,
            webhook: None,
            receivers: BTreeMap::new(),
            route: RouteSettings::default(),
            inhibit: InhibitSettings::shipped(),
            egress: Egress::default(),
            protected: Protected::default(),
            limits: Limits::default(),
            notify: NotifySettings::default(),
            self_test_every: Some(Duration::from_secs(3600)),
            keep: None,
            call_outs: BTreeMap::new(),
            http: None,
            maintenance: Vec::new(),
            aws: Vec::new(),
        }
    }
}

/// How mail leaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Server name; checked against its certificate.
    pub host: String,
    /// Server port.
    pub port: u16,
    /// `none` (loopback only), `starttls` (required, not opportunistic) or `tls`.
    #[serde(default)]
    pub tls: TlsMode,
    /// PEM file with the server's CA, beside the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// User name; needs `password_file`.
    #[serde(default)]
    pub username: Option<String>,
    /// File whose first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Sender: `Keytrail <keytrail@example.org>`.
    pub from: String,
    /// Receivers.
    pub to: Vec<String>,
    /// Bound of each network step.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// Signs each mail; absent, a relay may.
    #[serde(default)]
    pub dkim: Option<DkimSettings>,
}

/// The key that signs mail for its sender's domain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimSettings {
    /// Whose signature it is: the sender's domain, or one above it.
    pub domain: String,
    /// Under which name the domain publishes the key.
    pub selector: String,
    /// PEM file with the private key, which nobody but its owner may read.
    pub key_file: PathBuf,
}

/// How an SMTP connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Plain text; refused unless the server is on loopback.
    None,
    /// Upgrade required before anything is sent.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
}

/// Where the webhook goes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// `https://...`, or `http://` on loopback.
    pub url: String,
    /// File with the HMAC secret, at least 16 bytes; a final newline is not part of it.
    pub secret_file: PathBuf,
    /// PEM file with the server's CA, beside the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bound of one delivery.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// Never acted on. The account root, the built-in principals and the break-glass principal always belong to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Protected {
    /// Key ARNs or key ids.
    pub keys: Vec<String>,
    /// Principal ARNs.
    pub principals: Vec<String>,
}

/// Bounds on what it does by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Keys disabled in any hour before the circuit breaker holds the next one.
    pub disable_keys_per_hour: u32,
    /// Replaces each playbook's own `max_actions_per_hour`.
    pub playbook_actions_per_hour: Option<u32>,
    /// Changes of one attribute of one target by us in `flip_flop_window` before we stop.
    pub flip_flop_changes: u32,
    /// See `flip_flop_changes`.
    #[serde(with = "humantime_serde")]
    pub flip_flop_window: Duration,
    /// Alerts of one principal this far apart still are one incident.
    #[serde(with = "humantime_serde")]
    pub incident_window: Duration,
    /// Actions under way at the same time, on different targets.
    pub parallel_actions: usize,
    /// An action that could not be carried out for this long is dead and paged.
    #[serde(with = "humantime_serde")]
    pub action_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            disable_keys_per_hour: 3,
            playbook_actions_per_hour: None,
            flip_flop_changes: 2,
            flip_flop_window: Duration::from_secs(3600),
            incident_window: keytrail_trail::alert::grouping::WINDOW,
            parallel_actions: 8,
            action_deadline: Duration::from_secs(3600),
        }
    }
}

/// When people are told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifySettings {
    /// Quiet time after the last change of an incident before it is told, so that one mail tells all. The first notice
    /// about a high or critical incident does not wait for it, later ones do; a route may say otherwise.
    #[serde(with = "humantime_serde")]
    pub group_wait: Duration,
    /// Longest wait after the first change.
    #[serde(with = "humantime_serde")]
    pub group_max: Duration,
    /// Incidents below this are recorded, not told.
    pub min_severity: Severity,
    /// A notice that could not be delivered for this long is dead.
    #[serde(with = "humantime_serde")]
    pub retry_for: Duration,
    /// The receiver that is told when all receivers of a notice fail.
    pub last_resort: Option<String>,
    /// How long they must have failed; also when a failing receiver makes the responder `degraded`.
    #[serde(with = "humantime_serde")]
    pub last_resort_after: Duration,
    /// How often each receiver gets a sign of life; `"0s"` switches it off.
    #[serde(deserialize_with = "nonzero_duration")]
    pub heartbeat: Option<Duration>,
    /// Incidents that one receiver is told of within an hour; further ones wait. Critical ones have as much room again.
    pub notices_per_hour: u32,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self {
            group_wait: Duration::from_secs(5),
            group_max: Duration::from_secs(30),
            min_severity: Severity::Medium,
            retry_for: Duration::from_secs(72 * 3600),
            last_resort: None,
            last_resort_after: Duration::from_secs(300),
            heartbeat: Some(Duration::from_secs(24 * 3600)),
            notices_per_hour: 60,
        }
    }
}

fn nonzero_duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let duration: Duration = humantime_serde::deserialize(from)?;
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

fn long_enough<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let duration: Duration = humantime_serde::deserialize(from)?;
    if duration < KEEP_MIN {
        return Err(serde::de::Error::custom("responder.keep must be at least 35d"));
    }
    Ok(Some(duration))
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_words_and_unknown_fields_are_refused() {
        let read: Settings = toml::from_str(
            "[notify]\ngroup_wait = \"2s\"\nmin_severity = \"high\"\n[smtp]\nhost = \"mx\"\nport = 25\nfrom = \"a@b.org\"\nto = [\"c@d.org\"]",
        )
        .unwrap();
        assert_eq!(read.notify.group_wait, Duration::from_secs(2));
        assert_eq!(read.smtp.unwrap().tls, TlsMode::Starttls);
        assert_eq!(read.limits.disable_keys_per_hour, 3);
        assert!(toml::from_str::<Settings>("[limits]\ndisable_keys = 9").is_err());
        assert_eq!(read.keep, None, "nothing leaves unless somebody says so");
        let keep = |text: &str| toml::from_str::<Settings>(text).map(|read| read.keep);
        assert_eq!(keep("keep = \"400d\"").unwrap(), Some(Duration::from_secs(400 * 86_400)));
        assert!(keep("keep = \"34d\"").is_err() && keep("keep = \"0s\"").is_err());
    }
}
