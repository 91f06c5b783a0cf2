//! Who and what there is: accounts, principals with their credentials, keys with their state.
//!
//! Everything follows from the seed. Keys change as calls change them (see `call`), so that a disabled key answers as
//! one and images before and after a change fit together.

use super::calendar::{BERLIN, DAY_US, HOUR_US, NEW_YORK, SINGAPORE, Zone};
use super::chance::Chance;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) type CallerId = usize;
pub(super) type KeyId = usize;

/// Production, staging and shared services.
pub(super) const ACCOUNTS: [&str; 3] = ["111122223333", "444455556666", "777788889999"];
/// Nobody we know.
pub(super) const FOREIGN: &str = "999988887777";
pub(super) const REGION: &str = "eu-central-1";

/// Lifetime of a role's session.
const SESSION_US: i64 = 12 * HOUR_US;

/// How a principal proves who it is.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    /// An IAM user's access key.
    User,
    /// A session of a role, renewed twice a day.
    Session {
        role: String,
        mfa: bool,
        opened_us: i64,
    },
    Root,
    /// KMS itself.
    Service,
}

/// A principal as it calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) account: &'static str,
    /// User name, session name.
    pub(super) name: String,
    pub(super) credential: Credential,
    pub(super) arn: String,
    principal_id: String,
    access_key: String,
    pub(super) ip: String,
    pub(super) agent: &'static str,
    /// The service that calls in its name.
    pub(super) via: Option<&'static str>,
    /// `userIdentity`, made once for each credential.
    pub(super) identity: String,
}

impl Caller {
    pub(super) fn user(chance: &mut Chance, account: &'static str, name: &str) -> Self {
        let arn = format!("arn:aws:iam::{account}:user/{name}");
        Self::new(chance, account, name, Credential::User, arn, format!("AIDA{}", chance_id(account, name)))
    }

    pub(super) fn session(
        chance: &mut Chance,
        account: &'static str,
        role: &str,
        name: &str,
        mfa: bool,
        opened_us: i64,
    ) -> Self {
        let arn = format!("arn:aws:sts::{account}:assumed-role/{role}/{name}");
        let id = format!("AROA{}:{name}", chance_id(account, role));
        Self::new(chance, account, name, Credential::Session { role: role.to_owned(), mfa, opened_us }, arn, id)
    }

    pub(super) fn root(chance: &mut Chance, account: &'static str) -> Self {
        let arn = format!("arn:aws:iam::{account}:root");
        Self::new(chance, account, "", Credential::Root, arn, account.to_owned())
    }

    pub(super) fn kms(account: &'static str) -> Self {
        let identity = json!({"accountId": account, "invokedBy": "AWS Internal"}).to_string();
        Self {
            account,
            name: String::new(),
            credential: Credential::Service,
            arn: String::new(),
            principal_id: String::new(),
            access_key: String::new(),
            ip: "AWS Internal".into(),
            agent: "AWS Internal",
            via: None,
            identity,
        }
    }

    fn new(
        chance: &mut Chance,
        account: &'static str,
        name: &str,
        credential: Credential,
        arn: String,
        principal_id: String,
    ) -> Self {
        let mut caller = Self {
            account,
            name: name.to_owned(),
            credential,
            arn,
            principal_id,
            access_key: String::new(),
            ip: format!("10.{}.{}.{}", chance.below(32), chance.below(256), 1 + chance.below(254)),
            agent: "aws-sdk-rust/1.3.14 os/linux lang/rust/1.95.0",
            via: None,
            identity: String::new(),
        };
        caller.new_key(chance);
        caller
    }

    /// From another place, with other tools: what a thief of the credential looks like.
    pub(super) fn stolen(&self, chance: &mut Chance) -> Self {
        let mut thief = self.clone();
        thief.ip = format!("203.0.113.{}", 1 + chance.below(254));
        thief.agent = "aws-cli/2.28.1 md/Botocore#1.40.1 ua/2.1 os/linux#6.8 md/arch#x86_64";
        thief.via = None;
        thief.identity = thief.identity_json();
        thief
    }

    /// Through a service, which hides where the caller is.
    pub(super) fn through(mut self, service: &'static str) -> Self {
        (self.via, self.agent) = (Some(service), service);
        self.ip = service.to_owned();
        self.identity = self.identity_json();
        self
    }

    pub(super) fn with(mut self, ip: String, agent: &'static str) -> Self {
        (self.ip, self.agent) = (ip, agent);
        self
    }

    /// Opens the next session if this one is over.
    pub(super) fn renew(&mut self, chance: &mut Chance, now_us: i64) {
        if let Credential::Session { opened_us, .. } = &mut self.credential
            && now_us - *opened_us >= SESSION_US
        {
            *opened_us = now_us - chance.between(0, 60_000_000);
            self.new_key(chance);
        }
    }

    fn new_key(&mut self, chance: &mut Chance) {
        let prefix = if matches!(self.credential, Credential::Session { .. }) { "ASIA" } else { "AKIA" };
        self.access_key = format!("{prefix}{}", chance.token(16));
        self.identity = self.identity_json();
    }

    fn identity_json(&self) -> String {
        let mut identity = json!({"type": "IAMUser", "principalId": self.principal_id, "arn": self.arn,
            "accountId": self.account, "accessKeyId": self.access_key});
        match &self.credential {
            Credential::User => identity["userName"] = json!(self.name),
            Credential::Root => identity["type"] = json!("Root"),
            Credential::Session { role, mfa, opened_us } => {
                identity["type"] = json!("AssumedRole");
                identity["sessionContext"] = json!({
                    "sessionIssuer": {"type": "Role", "principalId": self.principal_id.split(':').next(),
                        "arn": format!("arn:aws:iam::{}:role/{role}", self.account), "accountId": self.account,
                        "userName": role},
                    "attributes": {"creationDate": seconds(*opened_us), "mfaAuthenticated": mfa.to_string()}});
            }
            Credential::Service => {}
        }
        if let Some(service) = self.via {
            identity["invokedBy"] = json!(service);
        }
        identity.to_string()
    }
}

/// Sixteen letters that stay with a name.
fn chance_id(account: &str, name: &str) -> String {
    let digest = keytrail_kms::chain::leaf::sha256(&[account.as_bytes(), name.as_bytes()]);
    hex::encode_upper(&digest[..8])
}

/// A key and what calls have made of it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) account: &'static str,
    pub(super) region: String,
    pub(super) id: String,
    pub(super) arn: String,
    pub(super) state: &'static str,
    pub(super) description: String,
    pub(super) spec: &'static str,
    pub(super) usage: &'static str,
    pub(super) origin: &'static str,
    pub(super) created_us: i64,
    pub(super) deletion_us: Option<i64>,
    pub(super) valid_to_us: Option<i64>,
    pub(super) policy: String,
    pub(super) policy_sha256: String,
    pub(super) material: String,
    pub(super) rotates: bool,
    /// `PRIMARY` or `REPLICA`, and the primary's region.
    pub(super) multi_region: Option<(&'static str, String)>,
    /// Images of its live grants.
    pub(super) grants: Vec<Value>,
}

impl Key {
    /// Its image in `before` and `after`, members in the order of docs/event.md.
    pub(super) fn image(&self) -> Value {
        let mut image = json!({"keyArn": self.arn, "account": self.account, "region": self.region, "keyId": self.id,
            "keyState": self.state, "description": self.description, "keySpec": self.spec, "keyUsage": self.usage,
            "origin": self.origin, "keyManager": "CUSTOMER", "createdAt": micros(self.created_us)});
        if let Some(deletion_us) = self.deletion_us {
            image["deletionDate"] = json!(micros(deletion_us));
        }
        image["tags"] = json!({"team": self.description});
        image["policySha256"] = json!(self.policy_sha256);
        if self.state != "PendingImport" {
            image["keyMaterialId"] = json!(self.material);
            if self.origin == "EXTERNAL" {
                let expires = self.valid_to_us.is_some();
                let model = if expires { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
                image["expirationModel"] = json!(model);
            }
            if let Some(valid_to_us) = self.valid_to_us {
                image["validTo"] = json!(micros(valid_to_us));
            }
        }
        if let Some((kind, primary)) = &self.multi_region {
            image["multiRegionKeyType"] = json!(kind);
            image["primaryRegion"] = json!(primary);
        }
        if self.rotates {
            image["rotationPeriodInDays"] = json!(365);
            image["nextRotationDate"] = json!(micros(self.created_us + 365 * DAY_US));
        }
        image
    }
}

/// Everyone and everything.
pub(super) struct World {
    pub(super) callers: Vec<Caller>,
    pub(super) keys: Vec<Key>,
    /// Applications that call by themselves, each with its keys.
    pub(super) workloads: Vec<(CallerId, Vec<KeyId>)>,
    /// Principals whose keys are used by services in their name.
    pub(super) forwarded: Vec<(CallerId, Vec<KeyId>)>,
    pub(super) people: Vec<(CallerId, Zone)>,
    pub(super) admins: Vec<CallerId>,
    pub(super) pipelines: Vec<CallerId>,
    pub(super) jobs: Vec<(CallerId, KeyId)>,
    pub(super) auditors: Vec<CallerId>,
    /// Principals, each with a key of its own, that call on the first day and never again.
    pub(super) dormant: Vec<(CallerId, KeyId)>,
    /// Keys of applications.
    pub(super) app_keys: Vec<KeyId>,
    /// Keys that nobody uses any more.
    pub(super) retired_keys: Vec<KeyId>,
    pub(super) imported_keys: Vec<KeyId>,
    pub(super) signing_keys: Vec<KeyId>,
    pub(super) replicable_keys: Vec<KeyId>,
    pub(super) mutation: u64,
    pub(super) start_us: i64,
}

impl World {
    pub(super) fn new(seed: u64, principals: usize, start_us: i64) -> Self {
        let chance = &mut Chance::of(seed, 0);
        let mut world = Self {
            callers: Vec::new(),
            keys: Vec::new(),
            workloads: Vec::new(),
            forwarded: Vec::new(),
            people: Vec::new(),
            admins: Vec::new(),
            pipelines: Vec::new(),
            jobs: Vec::new(),
            auditors: Vec::new(),
            dormant: Vec::new(),
            app_keys: Vec::new(),
            retired_keys: Vec::new(),
            imported_keys: Vec::new(),
            signing_keys: Vec::new(),
            replicable_keys: Vec::new(),
            mutation: 1_000,
            start_us,
        };
        world.make_keys(chance, principals);
        world.make_people(chance, principals);
        world.make_machines(chance, principals);
        world
    }

    fn make_keys(&mut self, chance: &mut Chance, principals: usize) {
        let apps = (principals * 2 / 5).max(8);
        self.app_keys = (0..apps).map(|n| self.make_key(chance, app_account(n), &format!("app-{n}"))).collect();
        self.retired_keys = (0..12).map(|n| self.make_key(chance, app_account(n), &format!("retired-{n}"))).collect();
        self.imported_keys = (0..6).map(|n| self.make_key(chance, ACCOUNTS[0], &format!("imported-{n}"))).collect();
        self.signing_keys = (0..4).map(|n| self.make_key(chance, ACCOUNTS[0], &format!("signing-{n}"))).collect();
        self.replicable_keys = (0..4).map(|n| self.make_key(chance, ACCOUNTS[0], &format!("global-{n}"))).collect();
        for &key in &self.imported_keys {
            self.keys[key].origin = "EXTERNAL";
        }
        for &key in &self.signing_keys {
            (self.keys[key].spec, self.keys[key].usage) = ("ECC_NIST_P256", "SIGN_VERIFY");
        }
        for &key in &self.replicable_keys {
            self.keys[key].multi_region = Some(("PRIMARY", REGION.to_owned()));
        }
    }

    /// Adds a key that exists for a while already.
    pub(super) fn make_key(&mut self, chance: &mut Chance, account: &'static str, description: &str) -> KeyId {
        let created_us = self.start_us - chance.between(40, 700) * DAY_US;
        let id = chance.uuid(created_us).to_string();
        let policy = keytrail_kms::policy::default_key_policy(account);
        self.keys.push(Key {
            account,
            region: REGION.to_owned(),
            arn: format!("arn:aws:kms:{REGION}:{account}:key/{id}"),
            id,
            state: "Enabled",
            description: description.to_owned(),
            spec: "SYMMETRIC_DEFAULT",
            usage: "ENCRYPT_DECRYPT",
            origin: "AWS_KMS",
            created_us,
            deletion_us: None,
            valid_to_us: None,
            policy_sha256: sha256_hex(&policy),
            policy,
            material: chance.hex(),
            rotates: chance.happens(0.7),
            multi_region: None,
            grants: Vec::new(),
        });
        self.keys.len() - 1
    }

    /// Engineers, key administrators, auditors.
    fn make_people(&mut self, chance: &mut Chance, principals: usize) {
        let zones = [BERLIN, BERLIN, BERLIN, NEW_YORK, SINGAPORE];
        let count = (principals / 5).max(6);
        for n in 0..count {
            let account = app_account(n);
            let opened_us = self.start_us - DAY_US;
            let role = "AWSReservedSSO_Engineer";
            let person = Caller::session(chance, account, role, &format!("person-{n}"), true, opened_us);
            let agent = chance.pick(&["aws-cli/2.31.2 md/Botocore#1.41 os/macos", "Mozilla/5.0 (console)"]);
            let person = person.with(format!("198.51.100.{}", n % 8), agent);
            let id = self.add(person);
            self.people.push((id, zones[n % zones.len()]));
        }
        for n in 0..(principals / 50).max(2) {
            let account = ACCOUNTS[n % ACCOUNTS.len()];
            let role = "AWSReservedSSO_KeyAdministrator";
            let admin = Caller::session(chance, account, role, &format!("admin-{n}"), true, self.start_us - DAY_US);
            let id = self.add(admin.with("198.51.100.10".into(), "aws-cli/2.31.2 md/Botocore#1.41 os/macos"));
            self.admins.push(id);
        }
        let auditor = Caller::session(chance, ACCOUNTS[2], "ConfigScanner", "nightly", false, self.start_us - DAY_US);
        let id = self.add(auditor);
        self.auditors.push(id);
    }

    /// Applications, services in their name, pipelines, nightly jobs.
    fn make_machines(&mut self, chance: &mut Chance, principals: usize) {
        for n in 0..(principals / 33).max(2) {
            let pipeline = Caller::session(chance, app_account(n), "Deploy", &format!("pipeline-{n}"), false, 0);
            let id = self.add(pipeline.with(format!("10.99.0.{n}"), "Terraform/1.13 aws-sdk-go-v2/1.39"));
            self.pipelines.push(id);
        }
        for n in 0..(principals / 17).max(2) {
            let job = Caller::session(chance, app_account(n), &format!("job-{n}"), "cron", false, 0);
            let id = self.add(job);
            let key = self.key_of(chance, app_account(n));
            self.jobs.push((id, key));
        }
        for n in 0..(principals / 33).max(2) {
            let account = app_account(n);
            let caller = Caller::user(chance, account, &format!("former-{n}"));
            let id = self.add(caller);
            let key = self.make_key(chance, account, &format!("archive-{n}"));
            self.dormant.push((id, key));
        }
        for n in 0..(principals * 3 / 20).max(3) {
            let role = format!("store-{n}");
            let account = app_account(n);
            let service = chance.pick(&["s3.amazonaws.com", "ec2.amazonaws.com", "rds.amazonaws.com"]);
            let caller = Caller::session(chance, account, &role, "app", false, 0).through(service);
            let id = self.add(caller);
            let key = self.key_of(chance, account);
            self.forwarded.push((id, vec![key]));
        }
        let rest = principals.saturating_sub(self.callers.len()).max(6);
        for n in 0..rest {
            let account = app_account(n);
            let caller = match n % 7 {
                0 => Caller::user(chance, account, &format!("service-{n}")),
                _ => Caller::session(chance, account, &format!("app-{n}"), &format!("i-{:08x}", n * 7_919), false, 0),
            };
            let id = self.add(caller);
            let mut keys = vec![self.key_of(chance, account)];
            if chance.happens(0.3) {
                keys.push(self.key_of(chance, account));
            }
            self.workloads.push((id, keys));
        }
    }

    pub(super) fn add(&mut self, caller: Caller) -> CallerId {
        self.callers.push(caller);
        self.callers.len() - 1
    }

    /// A key of an application in this account.
    pub(super) fn key_of(&self, chance: &mut Chance, account: &str) -> KeyId {
        let own: Vec<KeyId> = self.app_keys.iter().copied().filter(|&key| self.keys[key].account == account).collect();
        chance.pick(&own)
    }
}

/// Seven of ten applications are in production.
fn app_account(n: usize) -> &'static str {
    match n % 10 {
        0..=6 => ACCOUNTS[0],
        7 | 8 => ACCOUNTS[1],
        _ => ACCOUNTS[2],
    }
}

pub(super) fn sha256_hex(text: &str) -> String {
    hex::encode(keytrail_kms::chain::leaf::sha256(&[text.as_bytes()]))
}

/// RFC 3339 in whole seconds, as `eventTime`.
pub(super) fn seconds(time_us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(time_us).unwrap_or_default();
    let mut text = String::with_capacity(20);
    // Writing to a string does not fail.
    let _ = write!(text, "{}", time.format("%Y-%m-%dT%H:%M:%SZ"));
    text
}

/// RFC 3339 in microseconds, as dates in images.
pub(super) fn micros(time_us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(time_us).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
