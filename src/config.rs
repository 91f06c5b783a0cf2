//! The configuration file: one TOML file, unknown fields refused, durations and sizes in human units.
//!
//! `init` writes it with the usual settings spelled out. Flags and environment variables (cli.rs) win over it. The
//! responder's section is its crate's own struct.

use anyhow::{Context, bail};
use bytesize::ByteSize;
use keytrail_kms::chain::VerifyKey;
use keytrail_kms::client::Trust;
use keytrail_kms::key_store::Clusters;
use keytrail_kms::policy::KMS_ACTIONS;
use keytrail_kms::retention::JOURNAL_KEEP_MIN;
use keytrail_kms::service::QuotaSettings;
use keytrail_kms::tls::TlsFiles;
use keytrail_responder::http::settings::HttpSettings;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: NodeSection,
    pub(crate) kms: KmsSection,
    /// `[endpoint]`: the key service, for trail and responder on another machine.
    pub(crate) endpoint: Option<EndpointSection>,
    /// `[root_key]`: the token whose key seals the root key, where one does.
    pub(crate) root_key: Option<RootKeySection>,
    /// `[hsm."cluster-..."]`: the tokens that custom key stores may be in, by cluster id.
    pub(crate) hsm: Clusters,
    /// `[quotas]`: what accounts may call how often; unnamed groups have AWS's defaults.
    pub(crate) quotas: QuotaSettings,
    /// `[issuer_keys]`: files with the public keys (JWKS) of identity providers, by their issuers' URLs.
    pub(crate) issuer_keys: BTreeMap<String, PathBuf>,
    /// `[signer]`: the signer's own process, where the log's key is not in the data folder.
    pub(crate) signer: Option<SignerSection>,
    /// `[quorum]`: the witnesses that must cosign the log's checkpoints.
    pub(crate) quorum: Option<QuorumSection>,
    /// `[recovery]`: who may declare a gap in the log.
    pub(crate) recovery: RecoverySection,
    /// `[witness]`: this node cosigns the logs of its peers.
    pub(crate) witness: Option<WitnessSection>,
    pub(crate) trail: TrailSection,
    /// `[sql]`: the trail serves SQL to the users of `sql-users.toml`.
    pub(crate) sql: Option<SqlSection>,
    pub(crate) response: ResponseSection,
    pub(crate) responder: keytrail_responder::Settings,
    pub(crate) kafka: KafkaSection,
}

/// `[node]`: whose log this is; written by `init`, and copied to the machines of trail and responder.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeSection {
    /// The home region: where keys of calls are that are signed for it. Whatever else is served is named in `regions`.
    pub(crate) region: String,
    /// All regions that the key service answers for, the home region among them; that one alone when empty.
    pub(crate) regions: Vec<String>,
    /// Name of the log.
    pub(crate) origin: String,
    /// Where `/livez`, `/readyz` and `/metrics` are served: by kms, and by trail and responder one and two ports on under
    /// `up`. Not at all when absent.
    pub(crate) health: Option<SocketAddr>,
}

/// `[kms]`: the key service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KmsSection {
    /// Address of the endpoint; loopback only without TLS.
    pub(crate) listen: SocketAddr,
    /// TLS for the endpoint.
    pub(crate) tls: Option<TlsFiles>,
    /// Longest wait for a record to become durable before the node refuses new calls.
    #[serde(with = "humantime_serde")]
    pub(crate) append_bound: Duration,
    /// Size of a journal segment; only new segments follow a change.
    pub(crate) segment_size: ByteSize,
    /// Whether whoever reaches the endpoint may read the log's checkpoint and tiles, which hold digests only.
    pub(crate) serve_log: bool,
    /// How long the journal keeps records that have landed; for ever without this.
    #[serde(with = "humantime_serde")]
    pub(crate) journal_keep: Option<Duration>,
}

/// `[root_key]`: a key inside a token that seals the root key. The module is code that runs in our process: it is named here,
/// never in `root.key`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootKeySection {
    /// The PKCS#11 library of the token's manufacturer.
    pub(crate) module: PathBuf,
    /// The token's label.
    pub(crate) token: String,
    /// The key's label.
    pub(crate) key: String,
    /// File with the PIN, readable for its owner only.
    pub(crate) pin_file: PathBuf,
}

impl RootKeySection {
    /// As keytrail.toml has it.
    pub(crate) fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let Self { module, token, key, pin_file } = self;
        format!(
            "[root_key]\nmodule = {}\ntoken = {}\nkey = {}\npin_file = {}\n\n",
            path(module),
            quoted(token),
            quoted(key),
            path(pin_file)
        )
    }
}

/// `[signer]`: where the signer's process answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignerSection {
    /// Its socket.
    pub(crate) socket: PathBuf,
}

/// `[recovery]`: whose two signatures together decide what no single person may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecoverySection {
    /// Verifier keys, as `keytrail gap key` prints them, one a line.
    operators_file: Option<PathBuf>,
}

impl RecoverySection {
    /// The keys; none where there is no file named.
    pub(crate) fn operators(&self) -> anyhow::Result<Vec<VerifyKey>> {
        let Some(file) = &self.operators_file else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let keys: Result<Vec<VerifyKey>, _> = text.split_whitespace().map(str::parse).collect();
        keys.with_context(|| format!("read the operators in {}", file.display()))
    }
}

/// `[quorum]`: who must cosign, and which answers wait for that.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuorumSection {
    /// A C2SP tlog-policy with the witnesses' addresses.
    pub(crate) policy_file: PathBuf,
    /// PEM: authorities of the witnesses' certificates, if the system does not trust them.
    pub(crate) ca_file: Option<PathBuf>,
    /// Operations of KMS whose answer waits until their record is under a cosigned checkpoint.
    #[serde(default)]
    pub(crate) wait_for: BTreeSet<String>,
    /// For how long, before the caller gets an error.
    #[serde(default = "wait_bound", with = "humantime_serde")]
    pub(crate) wait_bound: Duration,
}

fn wait_bound() -> Duration {
    Duration::from_secs(2)
}

impl QuorumSection {
    fn check(&self) -> anyhow::Result<()> {
        if self.wait_bound.is_zero() || self.wait_bound > Duration::from_secs(30) {
            bail!("quorum.wait_bound must be above 0 s and at most 30 s");
        }
        match self.wait_for.iter().find(|name| !KMS_ACTIONS.iter().any(|(known, _)| known == name)) {
            Some(name) => bail!("quorum.wait_for names {name}, which is no operation of KMS"),
            None => Ok(()),
        }
    }
}

/// `[witness]`: the witness that this node is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WitnessSection {
    /// Where it answers, under `/witness/`; loopback only without TLS.
    pub(crate) listen: SocketAddr,
    /// Files with the verifier keys of the logs that it cosigns.
    pub(crate) logs: Vec<PathBuf>,
    /// Name of its key when that has to be made.
    pub(crate) name: Option<String>,
    /// TLS for its listener.
    pub(crate) tls: Option<TlsFiles>,
}

impl Default for KmsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7610)),
            tls: None,
            append_bound: Duration::from_secs(5),
            segment_size: ByteSize::mib(64),
            serve_log: true,
            journal_keep: None,
        }
    }
}

/// `[endpoint]`: where trail and responder reach a key service that is not on their machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointSection {
    /// `https://host:port`.
    pub(crate) url: String,
    /// PEM: the authority of the service's certificate, if it is none that the system trusts.
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM: our certificate and those that lead to its authority, for a service that asks for one.
    pub(crate) cert_file: Option<PathBuf>,
    /// PEM: its private key, not readable by everyone.
    pub(crate) key_file: Option<PathBuf>,
}

impl EndpointSection {
    fn check(&self) -> anyhow::Result<()> {
        if !self.url.starts_with("https://") {
            bail!("endpoint.url {} is not an https address", self.url);
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            bail!("endpoint.cert_file and endpoint.key_file go together");
        }
        Ok(())
    }

    /// Reads the files.
    pub(crate) fn trust(&self) -> anyhow::Result<Trust> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let roots_pem = self.ca_file.as_deref().map(read).transpose()?;
        let Some((cert_file, key_file)) = self.cert_file.as_deref().zip(self.key_file.as_deref()) else {
            return Ok(Trust { roots_pem, identity_pem: None });
        };
        let mode = std::fs::metadata(key_file).with_context(|| format!("read {}", key_file.display()))?.permissions();
        if mode.mode() & 0o007 != 0 {
            bail!("{} is open to everyone: take the rights of others away", key_file.display());
        }
        let (key, cert) = (Zeroizing::new(read(key_file)?), read(cert_file)?);
        // Large enough from the start: growing would leave the key behind.
        let mut identity = Zeroizing::new(Vec::with_capacity(key.len() + 1 + cert.len()));
        identity.extend_from_slice(&key);
        identity.push(b'\n');
        identity.extend(cert);
        Ok(Trust { roots_pem, identity_pem: Some(Arc::new(identity)) })
    }
}

/// Shortest retention of the lake: rules and whoever investigates look back further than the journal does.
const LAKE_KEEP_MIN: Duration = Duration::from_secs(24 * 3600);

/// `[trail]`: lake, rules, alerts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TrailSection {
    /// A file is sealed at the latest after this long.
    #[serde(with = "humantime_serde")]
    pub(crate) seal_after: Duration,
    /// A file is sealed at the latest with this many rows.
    pub(crate) seal_rows: u64,
    /// A file is sealed at the latest with this much payload.
    pub(crate) seal_size: ByteSize,
    /// How long the lake keeps records that changed nothing; for ever without this.
    #[serde(with = "humantime_serde")]
    pub(crate) lake_keep: Option<Duration>,
}

impl Default for TrailSection {
    fn default() -> Self {
        Self {
            seal_after: Duration::from_secs(15 * 60),
            seal_rows: 131_072,
            seal_size: ByteSize::mib(64),
            lake_keep: None,
        }
    }
}

/// `[sql]`: where the trail serves SQL; docs/sql-servers.md.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlSection {
    /// Address for PostgreSQL's protocol; not served without it.
    pub(crate) postgres: Option<SocketAddr>,
    /// Address for SQL over HTTP; not served without it.
    pub(crate) http: Option<SocketAddr>,
    /// Certificate and key, needed on loopback, too.
    pub(crate) tls: SqlTls,
    /// Connections of all users together.
    #[serde(default = "sql_connections_max")]
    pub(crate) connections_max: usize,
    /// Memory for sorts, joins and groups of all queries together.
    #[serde(default = "sql_memory_max")]
    pub(crate) memory_max: ByteSize,
}

/// `[sql.tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlTls {
    /// PEM: the certificate, then those that lead to its authority.
    pub(crate) cert_file: PathBuf,
    /// PEM: the private key, not readable by everyone.
    pub(crate) key_file: PathBuf,
}

fn sql_connections_max() -> usize {
    64
}

/// With what the trail needs for itself it stays below 2 GiB.
fn sql_memory_max() -> ByteSize {
    ByteSize::gib(1)
}

/// `[response]`: whether playbooks act.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ResponseSection {
    /// Playbooks act; false: they observe and say what they would have done.
    pub(crate) enforce: bool,
    /// The trail's alert key, for a responder on another machine: its vkey text.
    pub(crate) alert_vkey: Option<String>,
    /// The log's key, for a responder on another machine: the text of `checkpoints/vkey`.
    pub(crate) log_vkey: Option<String>,
}

/// `[kafka]`: transport between machines; absent brokers mean one machine and no broker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KafkaSection {
    /// Bootstrap servers: `host:port,host:port`.
    pub(crate) brokers: Option<String>,
    /// Replication factor of topics that we create.
    pub(crate) replication: i32,
}

impl Default for KafkaSection {
    fn default() -> Self {
        Self { brokers: None, replication: 1 }
    }
}

impl Config {
    /// Reads and checks a file; a missing file is an error.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read configuration file {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("configuration file {}", path.display()))
    }

    /// Parses and checks a file's text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if !self.node.regions.is_empty() && !self.node.regions.contains(&self.node.region) {
            bail!("node.regions must name node.region, {}, too", self.node.region);
        }
        if self.kms.append_bound.is_zero() || self.kms.append_bound > Duration::from_secs(60) {
            bail!("kms.append_bound must be above 0 s and at most 60 s");
        }
        if self.kms.segment_size < ByteSize::mib(1) || self.kms.segment_size > ByteSize::gib(1) {
            bail!("kms.segment_size must be between 1 MiB and 1 GiB");
        }
        if self.kms.journal_keep.is_some_and(|keep| keep < JOURNAL_KEEP_MIN) {
            bail!("kms.journal_keep must be at least 1h");
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.check()?;
        }
        if let Some(quorum) = &self.quorum {
            quorum.check()?;
        }
        if self.sql.as_ref().is_some_and(|sql| sql.connections_max == 0 || sql.connections_max > 10_000) {
            bail!("sql.connections_max must be between 1 and 10,000");
        }
        let memory = ByteSize::mib(16)..=ByteSize::tib(1);
        if self.sql.as_ref().is_some_and(|sql| !memory.contains(&sql.memory_max)) {
            bail!("sql.memory_max must be between 16 MiB and 1 TiB");
        }
        if self.trail.seal_rows == 0 || self.trail.seal_rows > 1_000_000 {
            bail!("trail.seal_rows must be between 1 and 1,000,000");
        }
        if self
            .trail
            .lake_keep
            .is_some_and(|keep| keep < LAKE_KEEP_MIN || self.kms.journal_keep.is_none_or(|journal| keep < journal))
        {
            bail!("trail.lake_keep must be at least 1d, and needs kms.journal_keep, which must not be longer");
        }
        if let Some(fault) = self.responder.http.as_ref().and_then(HttpSettings::fault) {
            bail!("{fault}");
        }
        if self.responder.notify.group_wait > self.responder.notify.group_max {
            bail!("responder.notify.group_wait is longer than responder.notify.group_max");
        }
        self.responder.all_receivers().context("[responder]: receivers and routes")?;
        Ok(())
    }

    /// The file that `init` writes: the settings that sites change, at their defaults.
    pub(crate) fn template(node: &NodeSection, listen: SocketAddr, root_key: Option<&RootKeySection>) -> String {
        let root_key = root_key.map_or(ROOT_KEY_TEMPLATE.to_owned(), RootKeySection::text);
        let text = TEMPLATE.replace("LISTEN", &listen.to_string()).replace("REGION", &node.region);
        text.replace("ORIGIN", &node.origin).replace("ROOT_KEY\n", &root_key)
    }
}

const ROOT_KEY_TEMPLATE: &str = r#"# [root_key]                  # a key inside a token (PKCS#11) that seals root.key; docs/root-key.md
# module = "/usr/lib/softhsm/libsofthsm2.so"
# token = "keytrail"
# key = "root key"
# pin_file = "/etc/keytrail/pin"

"#;

const TEMPLATE: &str = r#"# Keytrail configuration. Flags win over environment variables, which win over this file.
# Durations: 500ms, 2s, 15m. Sizes: 64 MiB. Unknown fields are errors: `keytrail config check FILE`.

[node]
region = "REGION"
origin = "ORIGIN"
# regions = ["REGION", "eu-west-1"]  # multi-Region keys: the endpoint answers for each; must name `region`
# health = "127.0.0.1:7611"     # /livez, /readyz, /metrics of kms; `up` puts trail and responder one and two ports on

[kms]
listen = "LISTEN"             # anything but loopback needs TLS
append_bound = "5s"           # a record not durable after this long stops the node for new calls
segment_size = "64 MiB"       # of the journal
serve_log = true              # /log/<log id>: checkpoint and tiles for whoever gets here; digests, no names (docs/chain.md)
# journal_keep = "7d"         # segments go when all in them is older, has landed and is signed for; without: never

# [kms.tls]                   # files are read again when they change
# cert_file = "/etc/keytrail/tls.pem"
# key_file = "/etc/keytrail/tls.key"
# client_ca_file = "/etc/keytrail/clients.pem"  # then every client needs a certificate

# [endpoint]                  # on a machine of trail or responder alone: where the key service is
# url = "https://kms.example.org:7610"
# ca_file = "/etc/keytrail/authority.pem"       # unless the system trusts it
# cert_file = "/etc/keytrail/trail.pem"         # for a service that asks for certificates
# key_file = "/etc/keytrail/trail.key"

ROOT_KEY
# [hsm."cluster-abcdefghijk"]  # a token (PKCS#11) for a custom key store; docs/decisions/0024-custom-key-stores.md
# module = "/usr/lib/softhsm/libsofthsm2.so"
# token = "keys"
# trust_anchor_file = "/etc/keytrail/anchor.pem"  # CreateCustomKeyStore must then bring the same certificate

# [quotas]                    # calls of one account, by AWS's groups; docs/decisions/0021-quotas.md lists all
# symmetric = "10_000/s"      # Encrypt, Decrypt, GenerateDataKey...; "unlimited" takes a limit away
# CreateKey = "5/s"
# keys = "100_000"            # of one account

# [signer]                    # the log's key in a process of its own: `keytrail signer`, docs/witness.md
# socket = "/run/keytrail-signer/signer.sock"

# [quorum]                    # witnesses that must cosign the log's checkpoints; docs/witness.md
# policy_file = "/etc/keytrail/witnesses.policy"  # C2SP tlog-policy with their addresses
# ca_file = "/etc/keytrail/authority.pem"         # unless the system trusts it
# wait_for = ["ScheduleKeyDeletion", "PutKeyPolicy"]  # answered when cosigned,
# wait_bound = "2s"                               # or with an error after this long

# [recovery]                  # two of these may declare that the log cannot go on: `keytrail gap`, docs/recovery.md
# operators_file = "/etc/keytrail/operators"      # their verifier keys, one a line

# [witness]                   # this node cosigns its peers' logs under /witness/; anything but loopback needs TLS
# listen = "127.0.0.1:7620"
# logs = ["/etc/keytrail/peer.vkey"]              # their checkpoints/vkey
# tls = { cert_file = "/etc/keytrail/tls.pem", key_file = "/etc/keytrail/tls.key" }

# [issuer_keys]               # public keys of identity providers that are not on this machine, for tokens of theirs
# "https://token.actions.githubusercontent.com" = "/etc/keytrail/github.jwks"

[trail]
seal_after = "15m"            # a Parquet file is written at the latest after this long,
seal_rows = 131072            # this many rows,
seal_size = "64 MiB"          # or this much payload
# lake_keep = "400d"          # older records leave, but for changes; needs journal_keep; without: never

# [sql]                       # SQL for the users of sql-users.toml (`keytrail sql-user add`); docs/sql-servers.md
# postgres = "127.0.0.1:7640"   # PostgreSQL's protocol; TLS always
# http = "127.0.0.1:7641"       # POST /v1/sql; TLS always
# connections_max = 64        # of all users together
# memory_max = "1 GiB"        # of all their queries together
# tls = { cert_file = "/etc/keytrail/tls.pem", key_file = "/etc/keytrail/tls.key" }

[response]
enforce = false               # true: playbooks act; false: they say what they would have done

[responder.notify]
group_wait = "5s"             # quiet time before an incident's mail, so that one mail tells all; the first one about
group_max = "30s"             # a high or critical one goes at once; no wait is longer than this
min_severity = "medium"
# heartbeat = "24h"           # how often each receiver gets a sign of life; "0s": never
# last_resort = "webhook"     # who is told when all receivers of a notice fail
# last_resort_after = "5m"    # for this long

# [responder.smtp]            # the receiver named mail
# host = "mail.example.org"
# port = 587
# tls = "starttls"            # or "tls"; "none" on loopback only
# from = "Keytrail <keytrail@example.org>"
# to = ["soc@example.org"]

# [responder.webhook]         # the receiver named webhook
# url = "https://hooks.example.org/keytrail"
# secret_file = "/etc/keytrail/webhook.secret"

# [responder.http]              # incidents over HTTP: `keytrail incident user add`, docs/responder.md
# listen = "127.0.0.1:7650"     # anything but loopback needs tls
# public_url = "https://soc.example.org"  # for the link in mails that acknowledges; without it there is none
# tls = { cert_file = "/etc/keytrail/tls.pem", key_file = "/etc/keytrail/tls.key" }
# [responder.receivers.oncall]  # more receivers, each with a name; kinds and their fields: docs/notices.md
# kind = "pagerduty"
# routing_key_file = "/etc/keytrail/pagerduty.key"

# [responder.receivers.siem]
# kind = "syslog"             # RFC 5424 over TLS with an OCSF finding
# host = "siem.example.org"
# port = 6514

# [responder.route]           # who is told of what; without: everyone of everything
# receivers = ["mail"]

# [[responder.route.routes]]  # of these the first that matches takes it
# match = { min_severity = "high", "tag:owner" = "payments" }
# receivers = ["mail", "oncall"]
# group_wait = "0s"
# escalate_after = "15m"      # without an acknowledgement
# escalate_to = ["webhook"]

# [responder.egress]          # networks that receivers may be in although they are private
# allow = ["10.1.0.0/16"]

# [[responder.aws]]             # act on this AWS account where these imported logs tell of it: docs/responder.md
# account = "123456789012"
# logs = ["cloudtrail"]
# credentials_file = "/etc/keytrail/aws-credentials"

# [responder.protected]
# keys = []                   # ARNs never acted on
# principals = []

# [kafka]
# brokers = "127.0.0.1:9092"
"#;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_template_reads_back_as_the_defaults() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9));
        let node = NodeSection {
            region: "eu-north-1".to_owned(),
            origin: "keytrail/a/b-c".to_owned(),
            ..NodeSection::default()
        };
        let config = Config::parse(&Config::template(&node, listen, None)).unwrap();
        assert_eq!(config.node, node);
        assert_eq!(config.kms, KmsSection { listen, ..KmsSection::default() });
        assert_eq!(config.quotas, QuotaSettings::default());
        assert_eq!(config.trail, TrailSection::default());
        assert_eq!(config.response, ResponseSection::default());
        assert_eq!(config.kafka, KafkaSection::default());
        let notify = keytrail_responder::Settings::default().notify;
        assert_eq!(config.responder.notify.group_wait, notify.group_wait);
        assert_eq!(config.responder.notify.group_max, notify.group_max);
    }

    #[test]
    fn what_the_template_offers_in_comments_is_valid_too() {
        let all = Config::template(&NodeSection::default(), SocketAddr::from(([127, 0, 0, 1], 9)), None);
        let all = all.replace("\n# [", "\n[");
        let uncommented: String = all
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        let config = Config::parse(&uncommented).unwrap();
        assert_eq!(config.responder.all_receivers().unwrap().len(), 4);
        let notify = keytrail_responder::Settings::default().notify;
        assert_eq!(config.responder.notify.heartbeat, notify.heartbeat);
        assert_eq!(config.responder.notify.last_resort_after, notify.last_resort_after);
        assert!(config.kafka.brokers.is_some() && config.kms.tls.is_some());
        let sql = config.sql.unwrap();
        assert!(sql.postgres.is_some() && sql.http.is_some() && sql.connections_max == 64);
        assert_eq!(sql.memory_max, sql_memory_max());
        let offered = config.root_key.unwrap();
        let written = Config::template(&NodeSection::default(), KmsSection::default().listen, Some(&offered));
        assert_eq!(Config::parse(&written).unwrap().root_key, Some(offered));
        assert_eq!(config.quotas, QuotaSettings::default());
    }

    #[test]
    fn a_quota_that_there_is_not_is_an_error() {
        let raised = Config::parse("[quotas]\nsymmetric = \"100_000/s\"\n").unwrap();
        assert_ne!(raised.quotas, QuotaSettings::default());
        let error = Config::parse("[quotas]\nsymetric = \"5/s\"\n").unwrap_err();
        assert!(format!("{error:#}").contains("unknown quota symetric"), "{error:#}");
    }

    #[test]
    fn an_endpoint_elsewhere_needs_tls_and_a_whole_pair() {
        let of = |more: &str| Config::parse(&format!("[endpoint]\nurl = {more}\n"));
        assert!(of("\"https://kms.example.org\"").unwrap().endpoint.is_some());
        let error = of("\"http://kms.example.org\"").unwrap_err();
        assert!(format!("{error:#}").contains("not an https address"), "{error:#}");
        let error = of("\"https://kms.example.org\"\ncert_file = \"/c.pem\"").unwrap_err();
        assert!(format!("{error:#}").contains("go together"), "{error:#}");
    }

    #[test]
    fn a_key_that_everyone_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        std::fs::write(&cert, "cert").unwrap();
        std::fs::write(&key, "key").unwrap();
        let section = EndpointSection {
            url: "https://kms.example.org".to_owned(),
            ca_file: Some(cert.clone()),
            cert_file: Some(cert),
            key_file: Some(key.clone()),
        };
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = section.trust().map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("open to everyone"), "{error:#}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let trust = section.trust().unwrap();
        assert_eq!(trust.roots_pem.as_deref(), Some(&b"cert"[..]));
        assert_eq!(trust.identity_pem.unwrap().as_slice(), b"key\ncert");
    }

    #[test]
    fn the_home_region_is_one_of_the_regions() {
        let config =
            Config::parse("[node]\nregion = \"us-east-1\"\nregions = [\"us-east-1\", \"eu-west-1\"]\n").unwrap();
        assert_eq!(config.node.regions, ["us-east-1", "eu-west-1"]);
        let error = Config::parse("[node]\nregion = \"us-east-1\"\nregions = [\"eu-west-1\"]\n").unwrap_err();
        assert_eq!(error.to_string(), "node.regions must name node.region, us-east-1, too");
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = Config::parse("[kms]\nlisten = \"127.0.0.1:1\"\nlissten = 1\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("lissten") && text.contains("line 3"), "{text}");
    }

    #[test]
    fn durations_are_human() {
        let config = Config::parse("[kms]\nappend_bound = \"750ms\"\n").unwrap();
        assert_eq!(config.kms.append_bound, Duration::from_millis(750));
    }
}
