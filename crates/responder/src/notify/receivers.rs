//! Receivers: each has a name, a kind and its settings; `[responder.receivers.NAME]` in the configuration.
//!
//! What the store knows of one (`Receiver`) is enough to write notices for it; its [`Channel`] holds addresses and
//! secrets and delivers. `[responder.smtp]` and `[responder.webhook]` are receivers named `mail` and `webhook`.

use crate::config::{Settings, SmtpSettings, TlsMode, WebhookSettings};
use crate::notify::http::HttpError;
use crate::notify::render::Message;
use crate::notify::route::{self, RouteError};
use crate::notify::smtp::MailError;
use crate::notify::{Channel, Mailer, Webhook, pagerduty, slack, sns, syslog, teams};
use keytrail_kms::clock::Clock;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Most receivers.
const RECEIVERS_MAX: usize = 64;

/// What a receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mail.
    Smtp,
    /// The project's own JSON, signed.
    Webhook,
    /// Slack's incoming webhook.
    Slack,
    /// A workflow of Microsoft Teams.
    Teams,
    /// PagerDuty's Events API v2.
    PagerDuty,
    /// HTTP as Amazon SNS posts it.
    Sns,
    /// RFC 5424 with an OCSF finding.
    Syslog,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Smtp, Self::Webhook, Self::Slack, Self::Teams, Self::PagerDuty, Self::Sns, Self::Syslog];

    /// The word in configuration and store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Teams => "teams",
            Self::PagerDuty => "pagerduty",
            Self::Sns => "sns",
            Self::Syslog => "syslog",
        }
    }

    /// The kind of this word.
    pub(crate) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// What is stored and sent.
    pub(crate) fn body(self, message: &Message<'_>) -> String {
        match self {
            Self::Smtp => message.text(),
            Self::Webhook => message.payload().to_string(),
            Self::Slack => slack::body(message),
            Self::Teams => teams::body(message),
            Self::PagerDuty => pagerduty::body(message),
            Self::Sns => sns::body(message),
            Self::Syslog => syslog::body(message),
        }
    }
}

/// A receiver as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Addresses that each get their own delivery; empty for receivers that are one.
    pub(crate) recipients: Vec<String>,
}

/// `[responder.receivers.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ReceiverSettings {
    /// Mail.
    Smtp(SmtpSettings),
    /// The project's own JSON, signed.
    Webhook(WebhookSettings),
    /// Slack's incoming webhook.
    Slack(HookSettings),
    /// A workflow of Microsoft Teams.
    Teams(HookSettings),
    /// PagerDuty's Events API v2.
    PagerDuty(PagerDutySettings),
    /// HTTP as Amazon SNS posts it.
    Sns(SnsSettings),
    /// RFC 5424 with an OCSF finding.
    Syslog(SyslogSettings),
}

/// A webhook whose address is its secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSettings {
    /// File whose first line is the address.
    pub url_file: PathBuf,
    /// PEM file with the server's CA, beside the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bound of one delivery.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// PagerDuty's Events API v2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagerDutySettings {
    /// File whose first line is the integration's routing key.
    pub routing_key_file: PathBuf,
    /// Where events go; the EU has an address of its own.
    #[serde(default = "pagerduty_url")]
    pub url: String,
    /// PEM file with the server's CA, beside the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bound of one delivery.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// HTTP as Amazon SNS posts it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnsSettings {
    /// `https://...`, or `http://` on loopback.
    pub url: String,
    /// The topic that the receiver thinks it is subscribed to.
    pub topic_arn: String,
    /// File whose first line signs as the webhook's secret does.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// PEM file with the server's CA, beside the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bound of one delivery.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// A collector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogSettings {
    /// Its name; checked against its certificate.
    pub host: String,
    /// Its port: 6514 with TLS.
    pub port: u16,
    /// `tls`, or `none` on loopback.
    #[serde(default = "tls_always")]
    pub tls: TlsMode,
    /// PEM file with its CA, in place of the system's roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Bound of one delivery.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// Why a receiver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// One of those over HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A mail receiver.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// Syslog in plain text over a network, or with STARTTLS, which it does not know.
    #[error("syslog with this tls is only allowed to a loopback address, not to {0}: set tls = \"tls\"")]
    SyslogPlaintext(String),
    /// TLS cannot be set up.
    #[error("receiver cannot use TLS with these settings")]
    Tls(#[source] std::io::Error),
    /// Names and routes.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// One name for two.
    #[error("receiver {0} is configured twice: [responder.smtp] is called mail, [responder.webhook] webhook")]
    Twice(String),
    /// More than anyone has.
    #[error("more than {RECEIVERS_MAX} receivers")]
    TooMany,
}

impl Settings {
    /// All receivers by name, those of the short sections among them; checks names and routes.
    pub fn all_receivers(&self) -> Result<BTreeMap<String, ReceiverSettings>, ReceiverError> {
        let mut all = self.receivers.clone();
        let smtp = self.smtp.clone().map(|smtp| ("mail", ReceiverSettings::Smtp(smtp)));
        let webhook = self.webhook.clone().map(|webhook| ("webhook", ReceiverSettings::Webhook(webhook)));
        for (name, settings) in [smtp, webhook].into_iter().flatten() {
            if all.insert(name.to_owned(), settings).is_some() {
                return Err(ReceiverError::Twice(name.to_owned()));
            }
        }
        if all.len() > RECEIVERS_MAX {
            return Err(ReceiverError::TooMany);
        }
        all.keys().try_for_each(|name| route::check_name(name))?;
        let names: BTreeSet<&str> = all.keys().map(String::as_str).collect();
        self.route.check(&names)?;
        match &self.notify.last_resort {
            Some(name) if !names.contains(name.as_str()) => Err(RouteError::Receiver(name.clone()).into()),
            _ => Ok(all),
        }
    }

    /// Their channels: reads files and checks addresses, connects to nobody.
    pub fn channels(&self, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<dyn Channel>>, ReceiverError> {
        let made = self.all_receivers()?.into_iter().map(|(name, settings)| self.channel(&name, &settings, clock));
        made.collect()
    }

    fn channel(
        &self,
        name: &str,
        settings: &ReceiverSettings,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Channel>, ReceiverError> {
        let egress = &self.egress;
        Ok(match settings {
            ReceiverSettings::Smtp(smtp) => Arc::new(Mailer::named(name, smtp)?),
            ReceiverSettings::Webhook(webhook) => Arc::new(Webhook::new(name, webhook, egress, Arc::clone(clock))?),
            ReceiverSettings::Slack(hook) => Arc::new(slack::Slack::new(name, hook, egress)?),
            ReceiverSettings::Teams(hook) => Arc::new(teams::Teams::new(name, hook, egress)?),
            ReceiverSettings::PagerDuty(duty) => Arc::new(pagerduty::PagerDuty::new(name, duty, egress)?),
            ReceiverSettings::Sns(topic) => Arc::new(sns::Sns::new(name, topic, egress, Arc::clone(clock))?),
            ReceiverSettings::Syslog(collector) => Arc::new(syslog::Syslog::new(name, collector)?),
        })
    }
}

fn pagerduty_url() -> String {
    "https://events.pagerduty.com/v2/enqueue".into()
}

fn tls_always() -> TlsMode {
    TlsMode::Tls
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_kms::clock::FakeClock;

    #[test]
    fn receivers_of_every_kind_are_read_from_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let text = format!(
            r#"
[receivers.soc]
kind = "smtp"
host = "mx.example.org"
port = 587
from = "a@example.org"
to = ["b@example.org"]
[receivers.hook]
kind = "webhook"
url = "https://hooks.example.org/"
secret_file = "{secret}"
[receivers.chat]
kind = "slack"
url_file = "{url}"
timeout = "3s"
[receivers.cards]
kind = "teams"
url_file = "{url}"
[receivers.oncall]
kind = "pagerduty"
routing_key_file = "{secret}"
[receivers.topic]
kind = "sns"
url = "https://topic.example.org/"
topic_arn = "arn:aws:sns:us-east-1:1:keytrail"
[receivers.siem]
kind = "syslog"
host = "siem.example.org"
port = 6514
[route]
receivers = ["soc"]
[[route.routes]]
match = {{ min_severity = "high" }}
receivers = ["oncall", "chat"]
[notify]
last_resort = "hook"
"#,
            secret = file("secret", "0123456789abcdef0123456789abcdef\n"),
            url = file("url", "https://hooks.example.org/services/T/B/x\n"),
        );
        let settings: Settings = toml::from_str(&text).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(FakeClock::default());
        let names: Vec<String> =
            settings.channels(&clock).unwrap().iter().map(|channel| channel.name().to_owned()).collect();
        assert_eq!(names, ["cards", "chat", "hook", "oncall", "siem", "soc", "topic"]);

        let with = |more: &str| toml::from_str::<Settings>(&format!("{text}{more}")).unwrap().all_receivers();
        let unknown = text.replace("\"oncall\", \"chat\"", "\"nobody\"");
        let unknown: Settings = toml::from_str(&unknown).unwrap();
        assert!(matches!(unknown.all_receivers(), Err(ReceiverError::Route(RouteError::Receiver(_)))));
        assert!(matches!(
            with("[receivers.\"a b\"]\nkind = \"slack\"\nurl_file = \"x\""),
            Err(ReceiverError::Route(RouteError::Name(_)))
        ));
        let twice = "[smtp]\nhost = \"mx\"\nport = 25\nfrom = \"a@b.org\"\nto = []\n[receivers.mail]\nkind = \"slack\"\nurl_file = \"x\"";
        assert!(matches!(with(twice), Err(ReceiverError::Twice(_))));
        assert!(toml::from_str::<Settings>("[receivers.x]\nkind = \"slack\"\nurl_file = \"x\"\nurl = \"y\"").is_err());
        assert!(toml::from_str::<Settings>("[receivers.x]\nkind = \"fax\"").is_err());
    }
}
