//! The service as its callers see it: a real node in a temporary folder behind a real socket, and its log read back.

use crate::auth::credentials::Credentials;
use crate::auth::sigv4::{RequestParts, sign};
use crate::chain::{Kind, Leaf};
use crate::client::{Answer, Client, ClientError};
use crate::clock::{Clock, FakeClock, SystemClock};
use crate::event::AuditEvent;
use crate::init::{InitOptions, init_folder};
use crate::journal::{FatalHook, JournalError, JournalOptions, Reader};
use crate::ops::judge::Judge;
use crate::service::{Kms, KmsConfig, QuotaSettings, RunningKms, StartError, lift_quarantine_offline};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

mod announced;
mod approvals;
mod authorize_query;
mod aws_texts;
mod backup;
mod cross_account;
mod custom_key_stores;
mod gap;
mod grants;
mod iam;
mod import;
mod incidents;
mod key_states;
mod keys;
mod limits;
mod log;
mod log_over_http;
mod lookup_events;
mod multi_region;
mod overlay;
mod past;
mod quotas;
mod related_keys;
mod retirements;
mod root_key;
mod root_key_rotation;
mod rotation;
mod service_keys;
mod several_imports;
mod signer_rotation;
mod sts;
mod via_service;
mod web_identity;
mod witnesses;
mod wycheproof;

const ACCOUNT: &str = "123456789012";
const OTHER: &str = "210987654321";
const REGION: &str = "eu-central-1";
/// Each wait ends after this many steps of ten milliseconds.
const STEPS_MAX: usize = 2_000;

struct Fixture {
    folder: TempDir,
    kms: Option<RunningKms>,
    clock: Arc<dyn Clock>,
    /// None but in tests of quotas: on a clock that stands still nothing comes back.
    quotas: QuotaSettings,
    /// Key files of identity providers.
    issuer_keys: BTreeMap<String, std::path::PathBuf>,
    /// As configured; empty for the home region alone.
    regions: Vec<String>,
    /// Tokens for custom key stores.
    clusters: crate::key_store::Clusters,
    /// Who must cosign.
    quorum: Option<crate::witness::QuorumSettings>,
}

/// What a test did is a log on which the replay checks itself.
impl Drop for Fixture {
    fn drop(&mut self) {
        // What was pruned, or is in a log of before, cannot be replayed.
        let whole = !["journal/start", "former"].iter().any(|name| self.dir().join(name).exists());
        if !std::thread::panicking() && whole {
            crate::past::tests::reproduces(&self.events());
        }
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock)).await
    }

    async fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            InitOptions { account: ACCOUNT.into(), region: REGION.into(), cluster: "test".into(), node: "node".into() };
        init_folder(folder.path(), &options).unwrap();
        let quotas = QuotaSettings::unlimited();
        let mut fixture = Self {
            folder,
            kms: None,
            clock,
            quotas,
            issuer_keys: BTreeMap::new(),
            regions: Vec::new(),
            clusters: BTreeMap::new(),
            quorum: None,
        };
        fixture.append_identities(&format!(
            "[[account]]\nid = \"{OTHER}\"\n{}{}",
            user(ACCOUNT, "powerless", "[]"),
            user(OTHER, "neighbour", "[\"AdministratorAccess\"]"),
        ));
        fixture.start().await.unwrap();
        fixture
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn append_identities(&self, text: &str) {
        let path = self.dir().join("identities.toml");
        let mut file = std::fs::OpenOptions::new().append(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn start(&mut self) -> Result<(), StartError> {
        let mut config = KmsConfig::new(self.dir(), "127.0.0.1:0".parse().unwrap());
        // A test may end, and take the folder away, while its node still runs.
        let on_fatal: FatalHook = Arc::new(|_| ());
        config.quotas = self.quotas.clone();
        config.issuer_keys = self.issuer_keys.clone();
        config.regions = self.regions.clone();
        config.clusters = self.clusters.clone();
        config.quorum = self.quorum.clone();
        config.journal = JournalOptions { segment_bytes: 2 * 1024 * 1024, on_fatal, ..JournalOptions::default() };
        self.kms = Some(Kms::start(config, Arc::clone(&self.clock)).await?);
        Ok(())
    }

    async fn stop(&mut self) {
        self.kms.take().unwrap().shutdown().await.unwrap();
    }

    /// Stops the node and waits until its database is closed: its files can then be copied and replaced. A call that
    /// is being answered may hold it a little longer than the node.
    async fn stop_and_close(&mut self) {
        self.stop().await;
        let companions = ["kms.db-shm", "kms.db-wal"].map(|name| self.dir().join(name));
        wait_until(|| !companions.iter().any(|path| path.exists())).await;
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.kms.as_ref().unwrap().addr)
    }

    fn client(&self, file: &str, profile: &str) -> Client {
        let credentials = Credentials::read(&self.dir().join(file), profile).unwrap();
        Client::new(&self.endpoint(), credentials, REGION).unwrap()
    }

    fn client_in(&self, region: &str, file: &str, profile: &str) -> Client {
        let credentials = Credentials::read(&self.dir().join(file), profile).unwrap();
        Client::new(&self.endpoint(), credentials, region).unwrap()
    }

    fn admin(&self) -> Client {
        self.client("credentials", "default")
    }

    fn responder(&self) -> Client {
        self.client("service-credentials", "responder")
    }

    fn user(&self, name: &str) -> Client {
        Client::new(&self.endpoint(), user_credentials(name), REGION).unwrap()
    }

    fn events(&self) -> Vec<(Leaf, AuditEvent)> {
        let records = self.records();
        let events = records.into_iter().filter(|(leaf, _)| leaf.kind == Kind::Event);
        events.map(|(leaf, payload)| (leaf, serde_json::from_slice(&payload).unwrap())).collect()
    }

    fn records(&self) -> Vec<(Leaf, Vec<u8>)> {
        let mut reader = Reader::open(&self.dir().join("journal"), 0).unwrap();
        match reader.next(1) {
            Err(JournalError::NoSuchSeq { first, .. }) => reader.seek(first),
            _ => reader.seek(0),
        }
        let mut records = Vec::new();
        loop {
            let frames = reader.next(1_000).unwrap();
            if frames.is_empty() {
                return records;
            }
            records.extend(frames.iter().map(|frame| (frame.verify().unwrap(), frame.payload.to_vec())));
        }
    }

    /// The event that an answer's receipt names.
    fn event(&self, seq: u64) -> AuditEvent {
        self.events().into_iter().find(|(leaf, _)| leaf.seq == seq).unwrap().1
    }
}

fn user_credentials(name: &str) -> Credentials {
    let id = format!("AKIATESTTEST{}", name.to_uppercase());
    let secret = crate::auth::credentials::SecretKey::new(format!("secret-of-{name}-0123456789")).unwrap();
    Credentials::new(id, secret).unwrap()
}

fn user(account: &str, name: &str, policies: &str) -> String {
    let credentials = user_credentials(name);
    format!(
        "[[user]]\naccount = \"{account}\"\nname = \"{name}\"\npolicies = {policies}\n\n[[access_key]]\nid = \"{}\"\n\
         account = \"{account}\"\nuser = \"{name}\"\nsecret = \"{}\"\n",
        credentials.access_key_id,
        credentials.secret.expose(),
    )
}

async fn ok(client: &Client, target: &str, body: Value) -> Answer {
    client.call(target, body.clone(), None).await.unwrap_or_else(|error| panic!("{target} {body}: {error:?}"))
}

/// The exception and the seq of its record.
async fn refused(client: &Client, target: &str, body: Value) -> (String, u64) {
    match client.call(target, body.clone(), None).await {
        Err(ClientError::Service { code, seq, .. }) => (code, seq.unwrap()),
        other => panic!("{target} {body}: {other:?}"),
    }
}

async fn create_key(client: &Client) -> String {
    let answer = ok(client, "TrentService.CreateKey", json!({})).await;
    answer.body["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

async fn encrypt(client: &Client, key: &str, plaintext: &[u8], context: Value) -> String {
    let body = json!({"KeyId": key, "Plaintext": STANDARD.encode(plaintext), "EncryptionContext": context});
    let answer = ok(client, "TrentService.Encrypt", body).await;
    answer.body["CiphertextBlob"].as_str().unwrap().to_owned()
}

async fn wait_until(mut reached: impl FnMut() -> bool) {
    for _ in 0..STEPS_MAX {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("condition not reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_through_its_operations_and_each_call_is_one_event() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let described = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    assert_eq!(described.body["KeyMetadata"]["KeyState"], "Enabled");
    assert!(described.body["KeyMetadata"].get("DeletionDate").is_none());

    let blob = encrypt(&admin, &key, b"canary-plaintext", json!({"app": "a"})).await;
    let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"app": "a"}});
    let answer = ok(&admin, "TrentService.Decrypt", body).await;
    assert_eq!(answer.body["Plaintext"], STANDARD.encode("canary-plaintext"));
    assert_eq!(
        (&answer.body["KeyId"], &answer.body["EncryptionAlgorithm"]),
        (&json!(key), &json!("SYMMETRIC_DEFAULT"))
    );
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!((event.event_name.as_str(), event.read_only), ("Decrypt", true));
    assert_eq!(event.request_parameters.as_ref().unwrap()["keyId"], key);
    assert_eq!(event.request_parameters.unwrap()["encryptionContext"], json!({"app": "a"}));
    assert_eq!(event.resources[0].arn, key);
    assert_eq!(event.request_id.as_deref(), Some(answer.request_id.as_str()));
    assert_eq!(event.response_elements, None);

    let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"app": "b"}});
    assert_eq!(refused(&admin, "TrentService.Decrypt", body).await.0, "InvalidCiphertextException");
    let other = create_key(&admin).await;
    let body = json!({"CiphertextBlob": blob, "KeyId": other, "EncryptionContext": {"app": "a"}});
    assert_eq!(refused(&admin, "TrentService.Decrypt", body).await.0, "IncorrectKeyException");

    let body = json!({"KeyId": key, "KeySpec": "AES_256"});
    let data_key = ok(&admin, "TrentService.GenerateDataKey", body).await.body;
    assert_eq!(STANDARD.decode(data_key["Plaintext"].as_str().unwrap()).unwrap().len(), 32);
    let opened = ok(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": data_key["CiphertextBlob"]})).await;
    assert_eq!(opened.body["Plaintext"], data_key["Plaintext"]);
    let body = json!({"KeyId": key, "NumberOfBytes": 64});
    let without = ok(&admin, "TrentService.GenerateDataKeyWithoutPlaintext", body).await.body;
    assert!(without.get("Plaintext").is_none() && without["CiphertextBlob"].is_string());

    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": key})).await;
    let by_alias = encrypt(&admin, "alias/app", b"x", Value::Null).await;
    ok(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": by_alias, "KeyId": "alias/app"})).await;
    ok(&admin, "TrentService.UpdateAlias", json!({"AliasName": "alias/app", "TargetKeyId": other})).await;
    let body = json!({"CiphertextBlob": by_alias, "KeyId": "alias/app"});
    assert_eq!(refused(&admin, "TrentService.Decrypt", body).await.0, "IncorrectKeyException");
    let listed = ok(&admin, "TrentService.ListAliases", json!({"KeyId": other})).await.body;
    assert_eq!(listed["Aliases"][0]["AliasName"], "alias/app");
    ok(&admin, "TrentService.DeleteAlias", json!({"AliasName": "alias/app"})).await;

    let disabled = ok(&admin, "TrentService.DisableKey", json!({"KeyId": key})).await;
    let event = fixture.event(disabled.seq.unwrap());
    assert_eq!(event.additional_event_data.before.unwrap()["keyState"], "Enabled");
    assert_eq!(event.additional_event_data.after.unwrap()["keyState"], "Disabled");
    let (code, seq) =
        refused(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": data_key["CiphertextBlob"]})).await;
    assert_eq!(
        (code.as_str(), fixture.event(seq).error_code.as_deref()),
        ("DisabledException", Some("DisabledException"))
    );
    ok(&admin, "TrentService.EnableKey", json!({"KeyId": key})).await;
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    let scheduled = ok(&admin, "TrentService.ScheduleKeyDeletion", body).await.body;
    assert_eq!(scheduled["KeyState"], "PendingDeletion");
    let (code, _) = refused(&admin, "TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})).await;
    assert_eq!(code, "KMSInvalidStateException");
    ok(&admin, "TrentService.CancelKeyDeletion", json!({"KeyId": key})).await;
    let described = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    assert_eq!(described.body["KeyMetadata"]["KeyState"], "Disabled");

    let tags = json!([{"TagKey": "on-exposure", "TagValue": "disable"}, {"TagKey": "b", "TagValue": ""}]);
    ok(&admin, "TrentService.TagResource", json!({"KeyId": key, "Tags": tags})).await;
    ok(&admin, "TrentService.UntagResource", json!({"KeyId": key, "TagKeys": ["b"]})).await;
    let listed = ok(&admin, "TrentService.ListResourceTags", json!({"KeyId": key})).await.body;
    assert_eq!(listed["Tags"], json!([{"TagKey": "on-exposure", "TagValue": "disable"}]));
    let page = ok(&admin, "TrentService.ListKeys", json!({"Limit": 1})).await.body;
    assert_eq!((page["Keys"].as_array().unwrap().len(), &page["Truncated"]), (1, &json!(true)));
    let rest = ok(&admin, "TrentService.ListKeys", json!({"Marker": page["NextMarker"]})).await.body;
    assert_eq!((rest["Keys"].as_array().unwrap().len(), &rest["Truncated"]), (1, &json!(false)));
    assert!(rest.get("NextMarker").is_none());

    let events = fixture.events();
    let mut ids: Vec<_> = events.iter().map(|(_, event)| event.event_id.clone()).collect();
    ids.dedup();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    let calls = events.iter().filter(|(_, event)| event.event_type == "AwsApiCall").count();
    assert_eq!(calls, 29, "one event for each call made here");
    fixture.stop().await;
    for (_, payload) in fixture.records() {
        let text = String::from_utf8(payload).unwrap();
        let secrets = ["canary-plaintext".to_owned(), STANDARD.encode("canary-plaintext"), blob.clone()];
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
    let report = crate::verify::verify_folder(fixture.dir(), |_| ());
    assert!(format!("{:?}", report.verdict).contains("Verified"), "{:?}", report.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_can_be_denied_and_says_why_to_the_log_only() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/a", "TargetKeyId": key})).await;
    let powerless = fixture.user("powerless");
    let named = json!({"KeyId": key});
    let calls = [
        ("TrentService.CreateKey", json!({})),
        ("TrentService.DescribeKey", named.clone()),
        ("TrentService.ListKeys", json!({})),
        ("TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})),
        ("TrentService.Decrypt", json!({"CiphertextBlob": blob})),
        ("TrentService.GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_128"})),
        ("TrentService.GenerateDataKeyWithoutPlaintext", json!({"KeyId": key, "KeySpec": "AES_128"})),
        ("TrentService.EnableKey", named.clone()),
        ("TrentService.DisableKey", named.clone()),
        ("TrentService.ScheduleKeyDeletion", named.clone()),
        ("TrentService.CancelKeyDeletion", named.clone()),
        ("TrentService.CreateAlias", json!({"AliasName": "alias/b", "TargetKeyId": key})),
        ("TrentService.UpdateAlias", json!({"AliasName": "alias/a", "TargetKeyId": key})),
        ("TrentService.DeleteAlias", json!({"AliasName": "alias/a"})),
        ("TrentService.ListAliases", json!({})),
        ("TrentService.GetKeyPolicy", named.clone()),
        ("TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": "{}"})),
        ("TrentService.TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        ("TrentService.UntagResource", json!({"KeyId": key, "TagKeys": ["a"]})),
        ("TrentService.GenerateDataKeyPair", json!({"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"})),
        ("TrentService.GenerateDataKeyPairWithoutPlaintext", json!({"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"})),
        ("TrentService.ReEncrypt", json!({"CiphertextBlob": blob, "DestinationKeyId": key})),
        ("TrentService.Sign", json!({"KeyId": key, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"})),
        (
            "TrentService.Verify",
            json!({"KeyId": key, "Message": "eA==", "Signature": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}),
        ),
        ("TrentService.GetPublicKey", named.clone()),
        ("TrentService.GenerateMac", json!({"KeyId": key, "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"})),
        (
            "TrentService.VerifyMac",
            json!({"KeyId": key, "Message": "eA==", "Mac": "eA==", "MacAlgorithm": "HMAC_SHA_256"}),
        ),
        (
            "TrentService.DeriveSharedSecret",
            json!({"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": "eA=="}),
        ),
        ("TrentService.GenerateRandom", json!({"NumberOfBytes": 8})),
        ("TrentService.UpdateKeyDescription", json!({"KeyId": key, "Description": "x"})),
        ("TrentService.ListKeyPolicies", named.clone()),
        (
            "TrentService.GetParametersForImport",
            json!({"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}),
        ),
        (
            "TrentService.ImportKeyMaterial",
            json!({
                "KeyId": key, "ImportToken": "eA==", "EncryptedKeyMaterial": "eA==",
                "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
            }),
        ),
        ("TrentService.DeleteImportedKeyMaterial", named.clone()),
        ("TrentService.GetKeyLastUsage", named.clone()),
        ("TrentService.EnableKeyRotation", named.clone()),
        ("TrentService.DisableKeyRotation", named.clone()),
        ("TrentService.RotateKeyOnDemand", named.clone()),
        ("TrentService.GetKeyRotationStatus", named.clone()),
        ("TrentService.ListKeyRotations", named.clone()),
        ("TrentService.ListResourceTags", named.clone()),
        ("KeytrailService.PutQuarantine", json!({"PrincipalArn": "arn:aws:iam::1:user/x", "TtlSeconds": 60})),
        ("KeytrailService.LiftQuarantine", json!({"PrincipalArn": "arn:aws:iam::1:user/x"})),
        ("KeytrailService.ListQuarantines", json!({})),
        ("KeytrailService.RestoreKeyPolicy", json!({"KeyId": key, "CurrentPolicySha256": "", "WantedEventId": ""})),
        (
            "KeytrailService.PutMfaRequirement",
            json!({"AccountId": ACCOUNT, "Actions": ["PutKeyPolicy"], "TtlSeconds": 60}),
        ),
        ("KeytrailService.LiftMfaRequirement", json!({"AccountId": ACCOUNT})),
        ("KeytrailService.ListMfaRequirements", json!({})),
        ("KeytrailService.DeactivateAccessKey", json!({"AccessKeyId": "AKIATESTTESTNEIGHBOUR"})),
        ("KeytrailService.ActivateAccessKey", json!({"AccessKeyId": "AKIATESTTESTNEIGHBOUR"})),
        ("KeytrailService.ListDeactivatedAccessKeys", json!({})),
        ("KeytrailService.RestoreAlias", json!({"AliasName": "alias/x", "WantedEventId": "e"})),
        ("KeytrailService.Approve", json!({"RequestId": "A-1", "Subject": "", "TargetState": ""})),
        ("KeytrailService.Reject", json!({"RequestId": "A-1"})),
        ("KeytrailService.ListApprovalRequests", json!({})),
        ("KeytrailService.DescribeApprovalRequest", json!({"RequestId": "A-1"})),
        ("KeytrailService.OpenApprovalRequest", json!({})),
        ("KeytrailService.ConsumeApprovalRequest", json!({"RequestId": "A-1", "TargetState": ""})),
        ("KeytrailService.RetireKey", named.clone()),
        ("KeytrailService.CancelRetirement", named.clone()),
        ("KeytrailService.ListRetirements", json!({})),
        (
            "KeytrailService.AnnounceChange",
            json!({"Ticket": "T-1", "KeyId": key, "Operations": ["PutKeyPolicy"], "Until": announced::in_an_hour()}),
        ),
        ("KeytrailService.WithdrawChange", json!({"ChangeId": "x", "Reason": "a test"})),
        ("KeytrailService.ListChanges", json!({})),
        ("KeytrailService.ReportResponder", json!({"Kind": "pause"})),
        ("KeytrailService.CountKeys", json!({})),
        ("KeytrailService.GetCheckpoint", json!({})),
        ("KeytrailService.GetFrames", json!({"FirstSeq": 0})),
        ("KeytrailService.ReportLanded", json!({"NextSeq": 0})),
        ("KeytrailService.RunQuery", json!({"QueryId": "q", "User": "u", "Door": "postgres", "Statement": "SELECT 1"})),
        ("KeytrailService.EndQuery", json!({"QueryId": "q", "Outcome": "ok"})),
        ("KeytrailService.RecordIncident", json!({"IncidentId": "I-1", "Entries": []})),
        ("KeytrailService.GetUsage", json!({"FirstSeq": 0})),
        (
            "KeytrailService.AuthorizeQuery",
            json!({
                "Method": "POST", "Path": "/", "Query": "", "Headers": [], "Body": "{}", "ClientAddress": "192.0.2.1",
            }),
        ),
        ("KeytrailService.EraseRecords", json!({"Ranges": [{"First": 0, "Last": 0}], "Reason": "a test"})),
        (
            "KeytrailService.ExportEvidence",
            json!({"ExportedBy": "a test", "From": "2026-01-01", "To": "2026-02-01", "ManifestSha256": "0".repeat(64)}),
        ),
    ];
    for (target, body) in calls {
        match powerless.call(target, body, None).await {
            Err(ClientError::Service { code, message, seq, .. }) => {
                assert_eq!(code, "AccessDeniedException", "{target}");
                assert!(!message.contains("Policy/") && !message.contains("Default"), "{target}: {message}");
                let event = fixture.event(seq.unwrap());
                assert_eq!(event.error_code.as_deref(), Some("AccessDenied"), "{target}");
                assert!(event.additional_event_data.decided_by.is_some(), "{target}");
                assert_eq!(target.split('.').next_back(), Some(event.event_name.as_str()));
            }
            other => panic!("{target}: {other:?}"),
        }
    }
    let missing = "arn:aws:kms:eu-central-1:210987654321:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    assert_eq!(refused(&admin, "TrentService.DescribeKey", json!({"KeyId": missing})).await.0, "AccessDeniedException");
    let own = "1234abcd-12ab-34cd-56ef-1234567890ab";
    assert_eq!(refused(&admin, "TrentService.DescribeKey", json!({"KeyId": own})).await.0, "NotFoundException");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_needs_both_policies() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let neighbour = fixture.user("neighbour");
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let decrypt = json!({"CiphertextBlob": blob});
    let before = refused(&neighbour, "TrentService.Decrypt", decrypt.clone()).await;
    assert_eq!(before.0, "AccessDeniedException");
    let found = ok(&admin, "TrentService.GetKeyPolicy", json!({"KeyId": key})).await.body;
    let mut policy: Value = serde_json::from_str(found["Policy"].as_str().unwrap()).unwrap();
    policy["Statement"].as_array_mut().unwrap().push(json!({
        "Sid": "Open", "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*",
    }));
    let put = ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).await;
    let event = fixture.event(put.seq.unwrap());
    assert_eq!(event.additional_event_data.more["policy"], policy.to_string());
    let after = ok(&neighbour, "TrentService.Decrypt", decrypt.clone()).await;
    assert_eq!(fixture.event(after.seq.unwrap()).recipient_account_id, ACCOUNT);
    assert_eq!(refused(&neighbour, "TrentService.DisableKey", json!({"KeyId": key})).await.0, "AccessDeniedException");

    // The responder puts the first policy back, once, and only while the key has the one it saw.
    let created = fixture.events().into_iter().find(|(_, event)| event.event_name == "CreateKey").unwrap().1;
    let seen = event.additional_event_data.after.unwrap()["policySha256"].clone();
    let wanted = created.event_id;
    let stranger = json!({"KeyId": key, "CurrentPolicySha256": seen, "WantedEventId": event.event_id + "x"});
    let restore = json!({"KeyId": key, "CurrentPolicySha256": seen, "WantedEventId": wanted});
    let responder = fixture.responder();
    assert_eq!(refused(&responder, "KeytrailService.RestoreKeyPolicy", stranger).await.0, "NotFoundException");
    let answer = ok(&responder, "KeytrailService.RestoreKeyPolicy", restore.clone()).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.additional_event_data.more["previousPolicySha256"], seen);
    assert_eq!(refused(&neighbour, "TrentService.Decrypt", decrypt).await.0, "AccessDeniedException");
    let again = refused(&responder, "KeytrailService.RestoreKeyPolicy", restore).await;
    assert_eq!(again.0, "AlreadyExistsException", "it is back");
    // Whoever is being answered does not keep ahead by changing it again; anybody else's change stays.
    ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).await;
    let user = |name: &str| format!("arn:aws:iam::{ACCOUNT}:user/{name}");
    let by = |name: &str| json!({"KeyId": key, "CurrentPolicySha256": "another", "WantedEventId": wanted, "SetBy": user(name)});
    let other = refused(&responder, "KeytrailService.RestoreKeyPolicy", by("another")).await;
    assert_eq!(other.0, "KMSInvalidStateException");
    ok(&responder, "KeytrailService.RestoreKeyPolicy", by("administrator")).await;
    let now = ok(&admin, "TrentService.GetKeyPolicy", json!({"KeyId": key})).await.body;
    assert_eq!(now["Policy"], found["Policy"]);
    let ours = refused(&responder, "KeytrailService.RestoreKeyPolicy", by("administrator")).await;
    assert_eq!(ours.0, "AlreadyExistsException", "it is back");
    let locked = json!({"KeyId": key, "Policy": json!({"Version": "2012-10-17", "Statement": []}).to_string()});
    assert_eq!(refused(&admin, "TrentService.PutKeyPolicy", locked).await.0, "MalformedPolicyDocumentException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_stops_use_and_change_but_not_looking_and_someone_can_always_lift_it() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let responder = fixture.responder();
    let key = create_key(&admin).await;
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
    let put = json!({"PrincipalArn": arn, "TtlSeconds": 3_600, "Reason": "test"});
    for protected in [format!("arn:aws:iam::{ACCOUNT}:root"), format!("arn:aws:iam::{ACCOUNT}:keytrail/trail")] {
        let body = json!({"PrincipalArn": protected, "TtlSeconds": 60});
        assert_eq!(refused(&responder, "KeytrailService.PutQuarantine", body).await.0, "ValidationException");
    }
    let body = json!({"PrincipalArn": arn, "TtlSeconds": 1});
    assert_eq!(refused(&responder, "KeytrailService.PutQuarantine", body).await.0, "ValidationException");
    let answer = ok(&responder, "KeytrailService.PutQuarantine", put.clone()).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.event_source, "keytrail.internal");
    assert!(event.additional_event_data.after.unwrap()["expiresAtMicros"].is_u64());

    let body = json!({"KeyId": key, "KeySpec": "AES_256"});
    let ends = answer.body["ExpiresAt"].clone();
    let shorter = json!({"PrincipalArn": arn, "TtlSeconds": 60, "Reason": "another"});
    let kept = ok(&responder, "KeytrailService.PutQuarantine", shorter).await;
    assert_eq!(
        (&kept.body["ExpiresAt"], &kept.body["Kept"]),
        (&ends, &json!(true)),
        "nobody shortens it by putting one"
    );
    let listed = ok(&responder, "KeytrailService.ListQuarantines", json!({})).await.body["Quarantines"].clone();
    assert_eq!((&listed[0]["ExpiresAt"], &listed[0]["Reason"]), (&ends, &json!("test")));
    assert_eq!(answer.body.get("Kept"), None);

    let (code, seq) = refused(&admin, "TrentService.GenerateDataKey", body.clone()).await;
    assert_eq!(code, "AccessDeniedException");
    let decided_by = fixture.event(seq).additional_event_data.decided_by.unwrap();
    assert!(decided_by.starts_with("Quarantine/"), "{decided_by}");
    assert_eq!(refused(&admin, "TrentService.DisableKey", json!({"KeyId": key})).await.0, "AccessDeniedException");
    ok(&admin, "TrentService.ListKeys", json!({})).await;
    ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await;

    let break_glass = fixture.client("break-glass", "break-glass");
    ok(&break_glass, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    let lift = json!({"PrincipalArn": arn});
    ok(&break_glass, "KeytrailService.LiftQuarantine", lift.clone()).await;
    ok(&admin, "TrentService.GenerateDataKey", body.clone()).await;
    assert_eq!(refused(&responder, "KeytrailService.LiftQuarantine", lift).await.0, "NotFoundException");

    ok(&responder, "KeytrailService.PutQuarantine", put).await;
    std::fs::remove_file(fixture.dir().join("break-glass")).unwrap();
    let locked = lift_quarantine_offline(fixture.dir(), &arn, "drill", (None, None), Arc::new(SystemClock)).await;
    assert!(locked.is_err(), "a running node keeps its folder");
    fixture.stop().await;
    let seq = lift_quarantine_offline(fixture.dir(), &arn, "drill", (None, None), Arc::new(SystemClock)).await.unwrap();
    let event = fixture.event(seq);
    assert_eq!(event.user_identity.arn.as_deref(), Some("arn:aws:iam::123456789012:keytrail/break-glass"));
    fixture.start().await.unwrap();
    ok(&fixture.admin(), "TrentService.GenerateDataKey", body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_has_its_effect_once_and_built_ins_have_their_lists_only() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let blob = encrypt(&admin, &key, b"x", Value::Null).await;
    let responder = fixture.responder();
    let body = json!({"KeyId": key});
    let first = responder.call("TrentService.DisableKey", body.clone(), Some("act-1")).await.unwrap();
    ok(&admin, "TrentService.EnableKey", body.clone()).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let second = responder.call("TrentService.DisableKey", body.clone(), Some("act-1")).await.unwrap();
    let events: HashMap<u64, AuditEvent> =
        fixture.events().into_iter().map(|(leaf, event)| (leaf.seq, event)).collect();
    let (first, second) = (&events[&first.seq.unwrap()], &events[&second.seq.unwrap()]);
    assert_eq!(first.additional_event_data.action_id.as_deref(), Some("act-1"));
    assert_eq!(second.additional_event_data.repeat_of.as_deref(), Some(first.event_id.as_str()));
    assert!(second.additional_event_data.after.is_none() && second.additional_event_data.mutation.is_none());
    let state = ok(&admin, "TrentService.DescribeKey", body.clone()).await.body["KeyMetadata"]["KeyState"].clone();
    assert_eq!(state, "Enabled", "a repeat has no effect");
    let other = create_key(&admin).await;
    let reused = responder.call("TrentService.DisableKey", json!({"KeyId": other}), Some("act-1")).await;
    assert_eq!(reused.unwrap_err().code(), Some("ValidationException"));

    // A refused action is remembered too.
    let early = responder.call("TrentService.CancelKeyDeletion", body.clone(), Some("act-2")).await.unwrap_err();
    assert_eq!(early.code(), Some("KMSInvalidStateException"));
    ok(&admin, "TrentService.ScheduleKeyDeletion", body.clone()).await;
    let late = responder.call("TrentService.CancelKeyDeletion", body.clone(), Some("act-2")).await.unwrap_err();
    assert_eq!(late.code(), Some("KMSInvalidStateException"));
    responder.call("TrentService.CancelKeyDeletion", body.clone(), Some("act-3")).await.unwrap();

    // An id from anyone else means nothing.
    let answer = admin.call("TrentService.DisableKey", body.clone(), Some("act-3")).await.unwrap();
    assert_eq!(fixture.event(answer.seq.unwrap()).additional_event_data.action_id, None);

    let trail = fixture.client("service-credentials", "trail");
    for (client, target, body) in [
        (&responder, "TrentService.Decrypt", json!({"CiphertextBlob": blob})),
        (&responder, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": "{}"})),
        (&responder, "KeytrailService.GetFrames", json!({"FirstSeq": 0})),
        (&trail, "TrentService.DescribeKey", json!({"KeyId": key})),
    ] {
        let (code, seq) = refused(client, target, body).await;
        assert_eq!(code, "AccessDeniedException", "{target}");
        assert_eq!(fixture.event(seq).additional_event_data.decided_by.as_deref(), Some("BuiltIn"));
    }
    let note = ok(&trail, "KeytrailService.GetCheckpoint", json!({})).await.body;
    assert!(note["Checkpoint"].as_str().unwrap().starts_with(&fixture.kms.as_ref().unwrap().origin));
    let frames = ok(&trail, "KeytrailService.GetFrames", json!({"FirstSeq": 0, "Max": 3})).await.body;
    assert_eq!(frames["Frames"].as_array().unwrap().len(), 3);
    let leaf = STANDARD.decode(frames["Frames"][0]["Leaf"].as_str().unwrap()).unwrap();
    assert_eq!(Leaf::decode(&leaf).unwrap().kind, Kind::EpochStart);
}

/// Who signs, for which region and service, at which time.
type Signing<'a> = (&'a Credentials, &'a str, &'a str, u64);
/// Name, headers, body, signature, expected status and exception.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a [u8], Option<Signing<'a>>, u16, &'a str);

/// Signs and sends bytes as they are; gives status and body.
async fn raw(fixture: &Fixture, headers: &[(&str, &str)], body: &[u8], signed: Option<Signing<'_>>) -> (u16, String) {
    let host = fixture.kms.as_ref().unwrap().addr.to_string();
    let mut all: Vec<(&str, &[u8])> = vec![("host", host.as_bytes())];
    all.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    let parts = RequestParts { method: "POST", path: "/", query: "", headers: &all, body };
    let mut request = reqwest::Client::new().post(fixture.endpoint()).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some((credentials, region, service, time_us)) = signed {
        for (name, value) in sign(credentials, &parts, region, service, time_us) {
            request = request.header(name, value);
        }
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_request_gets_awss_error_and_one_event() {
    let fixture = Fixture::new().await;
    let credentials = Credentials::read(&fixture.dir().join("credentials"), "default").unwrap();
    let now_us = SystemClock.now_us();
    let good = Some((&credentials, REGION, "kms", now_us));
    let stranger = user_credentials("stranger");
    let headers = |target: &'static str| vec![("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
    let large = vec![b'x'; 300 * 1024];
    let deep = "[".repeat(100_000);
    let cases: Vec<Case<'_>> = vec![
        ("not JSON", headers("TrentService.Encrypt"), b"{", good, 400, "SerializationException"),
        ("deep JSON", headers("TrentService.Encrypt"), deep.as_bytes(), good, 400, "SerializationException"),
        ("not UTF-8", headers("TrentService.Encrypt"), b"\xff", good, 400, "SerializationException"),
        ("wrong type", headers("TrentService.Encrypt"), br#"{"KeyId":5}"#, good, 400, "SerializationException"),
        (
            "bad base64",
            headers("TrentService.Encrypt"),
            br#"{"KeyId":"x","Plaintext":"%"}"#,
            good,
            400,
            "SerializationException",
        ),
        ("missing member", headers("TrentService.Encrypt"), b"{}", good, 400, "ValidationException"),
        ("unknown operation", headers("TrentService.Nonsense"), b"{}", good, 400, "UnknownOperationException"),
        ("strange target", headers("x y z"), b"{}", good, 400, "UnknownOperationException"),
        ("not here yet", headers("TrentService.Encapsulate"), b"{}", good, 400, "UnsupportedOperationException"),
        ("too large", headers("TrentService.Encrypt"), &large, good, 413, "RequestEntityTooLargeException"),
        ("unsigned", headers("TrentService.ListKeys"), b"{}", None, 400, "MissingAuthenticationTokenException"),
        (
            "wrong region",
            headers("TrentService.ListKeys"),
            b"{}",
            Some((&credentials, "us-east-1", "kms", now_us)),
            400,
            "InvalidSignatureException",
        ),
        (
            "wrong service",
            headers("TrentService.ListKeys"),
            b"{}",
            Some((&credentials, REGION, "s3", now_us)),
            400,
            "InvalidSignatureException",
        ),
        (
            "other known service",
            headers("TrentService.ListKeys"),
            b"{}",
            Some((&credentials, REGION, "sts", now_us)),
            400,
            "InvalidSignatureException",
        ),
        (
            "expired",
            headers("TrentService.ListKeys"),
            b"{}",
            Some((&credentials, REGION, "kms", now_us - 400_000_000)),
            400,
            "InvalidSignatureException",
        ),
        (
            "unknown access key",
            headers("TrentService.ListKeys"),
            b"{}",
            Some((&stranger, REGION, "kms", now_us)),
            400,
            "UnrecognizedClientException",
        ),
        ("fine", headers("TrentService.ListKeys"), b"{}", good, 200, ""),
    ];
    for (name, headers, body, signed, status, code) in cases {
        let before = fixture.events().len();
        let (found, text) = raw(&fixture, &headers, body, signed).await;
        assert_eq!(found, status, "{name}: {text}");
        if !code.is_empty() {
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["__type"], code, "{name}");
        }
        let events = fixture.events();
        assert_eq!(events.len(), before + 1, "{name}");
        let event = &events.last().unwrap().1;
        assert_eq!(event.error_code.as_deref(), (!code.is_empty()).then_some(code), "{name}");
    }

    let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let sts = Some((&credentials, REGION, "sts", now_us));
    let (status, text) = raw(&fixture, &form, b"Action=GetCallerIdentity&Version=2011-06-15", sts).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("<Arn>arn:aws:iam::123456789012:user/administrator</Arn>"), "{text}");
    let event = fixture.events().pop().unwrap().1;
    assert_eq!((event.event_source.as_str(), event.event_name.as_str()), ("sts.amazonaws.com", "GetCallerIdentity"));
    let (status, text) = raw(&fixture, &form, b"Action=AssumeRole", sts).await;
    assert!(status == 400 && text.contains("<Code>InvalidAction</Code>"), "{text}");
    let (status, text) = raw(&fixture, &form, b"Action=GetCallerIdentity", None).await;
    assert!(status == 403 && text.contains("<Code>MissingAuthenticationToken</Code>"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_fills_neither_log_nor_memory() {
    // A clock that stands still: however slow the machine, all calls come at once.
    let mut fixture = Fixture::with_clock(Arc::new(FakeClock::new(SystemClock.now_us()))).await;
    let before = fixture.events().len();
    for _ in 0..100 {
        let headers = [("x-amz-target", "TrentService.ListKeys")];
        let (status, _) = raw(&fixture, &headers, b"{}", None).await;
        assert_eq!(status, 400);
    }
    let events = fixture.events().len() - before;
    assert_eq!(events, 20);
    fixture.stop().await;
    let refusals = fixture.records().into_iter().filter(|(leaf, _)| leaf.kind == Kind::Refusals);
    let counted: u64 = refusals
        .map(|(_, payload)| serde_json::from_slice::<Value>(&payload).unwrap()["unauthenticated"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_restart_and_missing_events_are_appended() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    ok(&admin, "TrentService.TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]})).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/kept", "TargetKeyId": key})).await;
    let blob = encrypt(&admin, "alias/kept", b"kept", Value::Null).await;
    fixture.stop().await;
    let events = fixture.events().len();
    // What a crash between commit and append leaves: a row whose event the journal has not seen.
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let mut owed = fixture.events().pop().unwrap().1;
    owed.event_id = "owed".into();
    owed.additional_event_data.mutation = Some(1_000);
    store
        .execute(
            "INSERT INTO outbox (event_id, mutation, payload) VALUES ('owed', 1000, ?1)",
            [serde_json::to_vec(&owed).unwrap()],
        )
        .unwrap();
    store.execute("UPDATE meta SET value = 1000 WHERE name = 'mutation'", []).unwrap();
    drop(store);
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let opened = ok(&admin, "TrentService.Decrypt", json!({"CiphertextBlob": blob, "KeyId": "alias/kept"})).await;
    assert_eq!(opened.body["Plaintext"], STANDARD.encode("kept"));
    let tags = ok(&admin, "TrentService.ListResourceTags", json!({"KeyId": key})).await.body;
    assert_eq!(tags["Tags"][0]["TagValue"], "b");
    let disabled = ok(&admin, "TrentService.DisableKey", json!({"KeyId": key})).await;
    assert_eq!(fixture.event(disabled.seq.unwrap()).additional_event_data.mutation, Some(1_001));
    fixture.stop().await;
    fixture.start().await.unwrap();
    fixture.stop().await;
    let after = fixture.events();
    assert_eq!(after.iter().filter(|(_, event)| event.event_id == "owed").count(), 1);
    assert_eq!(after.len(), events + 4, "the owed one and three calls");
    let kinds: Vec<_> =
        fixture.records().iter().map(|(leaf, _)| leaf.kind).filter(|kind| *kind != Kind::Event).collect();
    let runs = kinds.iter().filter(|kind| **kind == Kind::EpochStart).count();
    assert_eq!((runs, kinds.iter().filter(|kind| **kind == Kind::Stop).count()), (3, 3));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_store_or_journal_is_refused() {
    let mut fixture = Fixture::new().await;
    create_key(&fixture.admin()).await;
    fixture.stop_and_close().await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(fixture.dir(), old.path());
    fixture.start().await.unwrap();
    create_key(&fixture.admin()).await;
    fixture.stop_and_close().await;
    let new = tempfile::tempdir().unwrap();
    copy_folder(fixture.dir(), new.path());

    std::fs::copy(old.path().join("kms.db"), fixture.dir().join("kms.db")).unwrap();
    let error = fixture.start().await.unwrap_err();
    assert!(matches!(error, StartError::StoreBehind { .. }), "{error}");

    std::fs::copy(new.path().join("kms.db"), fixture.dir().join("kms.db")).unwrap();
    for folder in ["journal", "checkpoints"] {
        std::fs::remove_dir_all(fixture.dir().join(folder)).unwrap();
        copy_folder(&old.path().join(folder), &fixture.dir().join(folder));
    }
    let error = fixture.start().await.unwrap_err();
    assert!(matches!(error, StartError::JournalBehind { .. }), "{error}");

    std::fs::remove_dir_all(fixture.dir().join("checkpoints")).unwrap();
    copy_folder(&new.path().join("checkpoints"), &fixture.dir().join("checkpoints"));
    let error = fixture.start().await.unwrap_err();
    assert!(matches!(error, StartError::Checkpoint(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_identities_file_is_logged_before_it_counts_and_a_bad_one_is_not_loaded() {
    let fixture = Fixture::new().await;
    let loads = || fixture.events().iter().filter(|(_, event)| event.event_name == "LoadIdentities").count();
    assert_eq!(loads(), 1);
    fixture.append_identities(&user(ACCOUNT, "newcomer", "[\"AdministratorAccess\"]"));
    wait_until(|| loads() == 2).await;
    let client = fixture.user("newcomer");
    let mut answered = client.call("TrentService.ListKeys", json!({}), None).await;
    for _ in 0..STEPS_MAX {
        if answered.is_ok() {
            break;
        }
        // Published right after its event: the reader above may have been quicker.
        answered = client.call("TrentService.ListKeys", json!({}), None).await;
    }
    answered.unwrap();
    let event = fixture.events().into_iter().rfind(|(_, event)| event.event_name == "LoadIdentities").unwrap().1;
    let text = event.request_parameters.unwrap().to_string();
    assert!(text.contains("user/newcomer") && text.contains("AKIATESTTESTNEWCOMER") && !text.contains("secret-of"));
    fixture.append_identities("[[nonsense]]\n");
    ok(&client, "TrentService.ListKeys", json!({})).await;
    assert_eq!(loads(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_deleted_when_its_date_comes() {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/gone", "TargetKeyId": key})).await;
    ok(&admin, "TrentService.ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    clock.advance(Duration::from_secs(7 * 86_400 - 60));
    let deleted = || fixture.events().into_iter().find(|(_, event)| event.event_name == "DeleteKey");
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    assert!(deleted().is_none(), "a minute too early");
    clock.advance(Duration::from_secs(61));
    wait_until(|| deleted().is_some()).await;
    let event = deleted().unwrap().1;
    assert_eq!((event.event_type.as_str(), event.request_id), ("AwsServiceEvent", None));
    assert_eq!(event.resources[0].arn, key);
    wait_until(|| fixture.kms.as_ref().unwrap().node().key_count() == 0).await;
    clock.set(SystemClock.now_us());
    assert_eq!(refused(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await.0, "NotFoundException");
    assert_eq!(
        refused(&admin, "TrentService.DescribeKey", json!({"KeyId": "alias/gone"})).await.0,
        "NotFoundException"
    );
}

/// What the log says, replayed by seq, explains every decision: the invariant behind generations and gates.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replaying_the_log_gives_exactly_the_recorded_decisions() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let keys = [create_key(&admin).await, create_key(&admin).await];
    let mut blobs = Vec::new();
    for key in &keys {
        // The context tells the replay whose blob it was.
        blobs.push((encrypt(&admin, key, b"x", json!({"of": key})).await, key.clone()));
    }
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/race", "TargetKeyId": keys[0]})).await;
    let first = fixture.events().last().unwrap().0.seq + 1;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..12_usize {
        let (client, blob) = (fixture.admin(), blobs[task % 2].clone());
        tasks.spawn(async move {
            let (blob, key) = blob;
            for round in 0..60 {
                // Refusals are the point.
                let mut body = json!({"CiphertextBlob": blob, "EncryptionContext": {"of": key}});
                if round % 3 == 0 {
                    body["KeyId"] = "alias/race".into();
                }
                let _ = client.call("TrentService.Decrypt", body, None).await;
            }
        });
    }
    for key in keys.clone() {
        let client = fixture.client("break-glass", "break-glass");
        tasks.spawn(async move {
            for _ in 0..20 {
                ok(&client, "TrentService.DisableKey", json!({"KeyId": key})).await;
                ok(&client, "TrentService.EnableKey", json!({"KeyId": key})).await;
            }
        });
    }
    let (client, targets) = (fixture.client("break-glass", "break-glass"), keys.clone());
    tasks.spawn(async move {
        for round in 0..20 {
            let body = json!({"AliasName": "alias/race", "TargetKeyId": targets[(round + 1) % 2]});
            ok(&client, "TrentService.UpdateAlias", body).await;
        }
    });
    let responder = fixture.responder();
    tasks.spawn(async move {
        let arn = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
        for _ in 0..15 {
            ok(&responder, "KeytrailService.PutQuarantine", json!({"PrincipalArn": arn, "TtlSeconds": 60})).await;
            ok(&responder, "KeytrailService.LiftQuarantine", json!({"PrincipalArn": arn})).await;
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    fixture.stop().await;

    let mut enabled: BTreeMap<String, bool> = keys.iter().map(|key| (key.clone(), true)).collect();
    let (mut alias, mut quarantined) = (keys[0].clone(), false);
    let mut decisions: HashMap<String, usize> = HashMap::new();
    for (leaf, event) in fixture.events().into_iter().filter(|(leaf, _)| leaf.seq >= first) {
        let parameters = event.request_parameters.clone().unwrap_or_default();
        let key = event.resources.iter().find(|resource| resource.kind == "AWS::KMS::Key").map(|key| key.arn.clone());
        match event.event_name.as_str() {
            "DisableKey" => drop(enabled.insert(key.unwrap(), false)),
            "EnableKey" => drop(enabled.insert(key.unwrap(), true)),
            "UpdateAlias" => alias = parameters["targetKeyId"].as_str().unwrap().to_owned(),
            "PutQuarantine" => quarantined = true,
            "LiftQuarantine" => quarantined = false,
            "Decrypt" => {
                let owner = parameters["encryptionContext"]["of"].as_str().unwrap().to_owned();
                let by_alias = parameters.get("keyId").and_then(Value::as_str) == Some("alias/race");
                let expected = if quarantined {
                    Some("AccessDenied")
                } else if by_alias && alias != owner {
                    assert_eq!(key.as_ref(), Some(&alias), "seq {}", leaf.seq);
                    Some("IncorrectKeyException")
                } else {
                    assert_eq!(key.as_ref(), Some(&owner), "seq {}", leaf.seq);
                    if enabled[&owner] { None } else { Some("DisabledException") }
                };
                let found = event.error_code.as_deref();
                assert_eq!(found, expected, "seq {}", leaf.seq);
                *decisions.entry(found.unwrap_or("allowed").to_owned()).or_default() += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(decisions.values().sum::<usize>(), 12 * 60);
    assert!(decisions.len() >= 3, "the race met too few cases: {decisions:?}");
}

/// Every path of members in a JSON value: `additionalEventData.after.keyState`.
fn paths(value: &Value, prefix: &str, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                paths(member, &format!("{prefix}.{name}"), found);
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| paths(entry, &format!("{prefix}[]"), found)),
        _ => drop(found.insert(prefix.to_owned())),
    }
}

/// The examples of docs/event.md have exactly the members of what a node writes.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_in_the_documentation_are_what_is_written() {
    let mut fixture = Fixture::with_clock(Arc::new(FakeClock::new(SystemClock.now_us()))).await;
    let admin = fixture.admin();
    let made = json!({"Description": "payroll", "Tags": [{"TagKey": "team", "TagValue": "payroll"}]});
    let key = ok(&admin, "TrentService.CreateKey", made).await.body["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let blob = encrypt(&admin, &key, b"x", json!({"app": "payroll"})).await;
    let decrypt = json!({"CiphertextBlob": blob, "EncryptionContext": {"app": "payroll"}});
    ok(&admin, "TrentService.Decrypt", decrypt.clone()).await;
    refused(&fixture.user("powerless"), "TrentService.Decrypt", decrypt).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/payroll", "TargetKeyId": key})).await;
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    ok(&admin, "TrentService.ScheduleKeyDeletion", body).await;
    let body = json!({"KeyId": key});
    fixture.responder().call("TrentService.CancelKeyDeletion", body, Some("inc-1-cancel")).await.unwrap();
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/powerless");
    let body = json!({"PrincipalArn": arn, "TtlSeconds": 3_600, "Reason": "incident inc-1"});
    fixture.responder().call("KeytrailService.PutQuarantine", body, Some("inc-1-quarantine")).await.unwrap();
    raw(&fixture, &[("x-amz-target", "TrentService.ListKeys")], b"{}", None).await;
    for _ in 0..50 {
        raw(&fixture, &[("x-amz-target", "TrentService.ListKeys")], b"{}", None).await;
    }
    wait_until(|| fixture.records().iter().any(|(leaf, _)| leaf.kind == Kind::Heartbeat)).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    fixture.stop().await;

    let mut written: BTreeMap<(Kind8, String, String), std::collections::BTreeSet<String>> = BTreeMap::new();
    for (leaf, payload) in fixture.records() {
        let value: Value = serde_json::from_slice(&payload).unwrap();
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let mut found = std::collections::BTreeSet::new();
        paths(&value, "", &mut found);
        // The last of a kind: only the second start has a predecessor.
        written.insert((leaf.kind as Kind8, text("eventName"), text("errorCode")), found);
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/event.md")).unwrap();
    let mut examples = 0;
    for block in page.split("```json kind=").skip(1) {
        let (kind, rest) = block.split_once('\n').unwrap();
        let value: Value = serde_json::from_str(rest.split("```").next().unwrap()).unwrap();
        let kind: Kind8 = kind.trim().parse().unwrap();
        if kind == Kind::Event as Kind8 {
            let event: AuditEvent = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(&event).unwrap(), value, "order and names of {}", event.event_name);
        }
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let mut found = std::collections::BTreeSet::new();
        paths(&value, "", &mut found);
        let name = (kind, text("eventName"), text("errorCode"));
        assert_eq!(Some(&found), written.get(&name), "{name:?}");
        examples += 1;
    }
    assert!(examples >= 12, "{examples}");
}

type Kind8 = u8;

/// A call judged before a change and sequenced after it must be judged again: each kind of change, one at a time.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_makes_what_was_judged_before_stale() {
    let mut fixture = Fixture::new().await;
    let admin = fixture.admin();
    let (key, other) = (create_key(&admin).await, create_key(&admin).await);
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/judged", "TargetKeyId": key})).await;
    let responder = fixture.responder();
    let break_glass = fixture.client("break-glass", "break-glass");
    let stranger = json!({"PrincipalArn": "arn:aws:iam::123456789012:user/powerless", "TtlSeconds": 60});
    let required = json!({"KeyId": key, "Actions": ["DisableKey"], "TtlSeconds": 60});
    let policy = ok(&admin, "TrentService.GetKeyPolicy", json!({"KeyId": key})).await.body["Policy"].clone();
    let named = json!({"KeyId": key});
    let changes = [
        (&break_glass, "TrentService.DisableKey", named.clone()),
        (&break_glass, "TrentService.EnableKey", named.clone()),
        (&break_glass, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy})),
        (&break_glass, "TrentService.TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]})),
        (&break_glass, "TrentService.CreateAlias", json!({"AliasName": "alias/more", "TargetKeyId": key})),
        (&break_glass, "TrentService.ScheduleKeyDeletion", named.clone()),
        (&responder, "TrentService.CancelKeyDeletion", named),
        (&responder, "KeytrailService.PutQuarantine", stranger.clone()),
        (&responder, "KeytrailService.LiftQuarantine", stranger),
        (&responder, "KeytrailService.PutMfaRequirement", required),
        (&responder, "KeytrailService.DeactivateAccessKey", json!({"AccessKeyId": "AKIATESTTESTPOWERLESS"})),
        (&break_glass, "TrentService.UpdateAlias", json!({"AliasName": "alias/judged", "TargetKeyId": other})),
    ];
    let node = Arc::clone(fixture.kms.as_ref().unwrap().node());
    let call = crate::ops::Call {
        caller: crate::ops::CallerKey::AccessKey(
            Credentials::read(&fixture.dir().join("credentials"), "default").unwrap().access_key_id,
        ),
        source: crate::event::SOURCE_KMS,
        operation: "Decrypt".into(),
        request_id: node.random_id(),
        source_ip: "127.0.0.1".into(),
        user_agent: None,
        action: None,
        on_behalf: None,
        tls: None,
        region: node.region,
    };
    let judge = Judge::shared(&node, &call).await;
    let (once, kind) = (std::sync::OnceLock::new(), crate::spec::KeyKind::SYMMETRIC);
    let first = judge.generate_once(&once, kind).await.unwrap();
    let again = Judge::shared(&node, &call).await;
    assert_eq!(
        again.generate_once(&once, kind).await.unwrap().expose(),
        first.expose(),
        "judged again, not made again"
    );
    drop((judge, again));
    let judged = async || {
        let mut judge = Judge::shared(&node, &call).await;
        judge.key("alias/judged").await.unwrap();
        judge.event(None, true, None).1
    };
    for (client, target, body) in changes {
        let seen = judged().await;
        ok(&admin, "TrentService.ListKeys", json!({})).await;
        assert_eq!(node.locks.unchanged(&seen), Ok(()), "reading changes nothing");
        ok(client, target, body).await;
        assert!(node.locks.unchanged(&seen).is_err(), "{target}");
    }
    let seen = judged().await;
    fixture.append_identities(&user(ACCOUNT, "newcomer", "[]"));
    wait_until(|| node.locks.unchanged(&seen).is_err()).await;
    drop(node);
    fixture.stop().await;
}

/// A copy from before a migration holds keys that are deleted later.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_store_goes_before_the_first_change() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let copy = fixture.dir().join("kms.db.v1");
    std::fs::write(&copy, b"").unwrap();
    fixture.start().await.unwrap();
    ok(&fixture.admin(), "TrentService.ListKeys", json!({})).await;
    assert!(copy.exists(), "the version before could still start");
    create_key(&fixture.admin()).await;
    assert!(!copy.exists());
}
