//! A seeded stream of plausible events as verified frames, for the benches of lake and rules.
//!
//! Many principals and keys, mostly Decrypt and GenerateDataKey under contexts that repeat, a few denials and
//! administrative calls: no incident in it, so that no bench measures the writing of alerts.

use bytes::Bytes;
use keytrail_kms::chain::leaf::{payload_digest, sha256};
use keytrail_kms::chain::{Kind, Leaf, Link, LogId};
use keytrail_kms::journal::Frame;
use keytrail_trail::source::SourceFrame;
use serde_json::{Value, json};

const ACCOUNT: &str = "123456789012";
/// Callers and keys.
const USERS: u64 = 300;
const KEYS: u64 = 200;
/// 2026-01-05T12:00:00Z in microseconds, where fixtures start too.
const START_US: u64 = 1_767_614_400_000_000;
/// Mean distance of two events: a thousand a second.
const STEP_US: u64 = 1_000;

/// A log as it grows: payloads become frames, each linked to the one before.
pub(crate) struct Chain {
    log: LogId,
    pub(crate) seq: u64,
    link: Link,
}

impl Chain {
    pub(crate) fn new(log: LogId) -> Self {
        Self { log, seq: 0, link: Link::ZERO }
    }

    /// The next record.
    pub(crate) fn frame(&mut self, time_us: u64, salt: [u8; 16], payload: Bytes) -> Frame {
        let leaf = Leaf {
            log: self.log,
            epoch: 1,
            seq: self.seq,
            kind: Kind::Event,
            time_us,
            payload_len: u32::try_from(payload.len()).expect("bench events are short"),
            payload_digest: payload_digest(&salt, &payload),
            prev: self.link,
        };
        let frame = Frame { leaf: leaf.encode(), salt, payload };
        self.link = frame.link();
        self.seq += 1;
        frame
    }
}

/// The generator; equal seeds give equal streams.
pub(crate) struct Stream {
    chain: Chain,
    state: u64,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self::of(LogId::of_origin("keytrail/bench/stream"), seed)
    }

    /// A stream of this log.
    pub(crate) fn of(log: LogId, seed: u64) -> Self {
        Self { chain: Chain::new(log), state: seed | 1 }
    }

    pub(crate) fn log(&self) -> LogId {
        self.chain.log
    }

    /// The next `count` frames, linked to those before.
    pub(crate) fn frames(&mut self, count: usize) -> Vec<SourceFrame> {
        (0..count).map(|_| SourceFrame { log: self.chain.log, frame: self.frame() }).collect()
    }

    /// The frames by which the callers and keys of the stream came to be, for benches that ask who may do what. To be
    /// taken before the first call.
    pub(crate) fn beginning(&mut self) -> Vec<SourceFrame> {
        let users: Vec<Value> = (0..USERS)
            .map(|user| {
                json!({"accountId": ACCOUNT, "userName": format!("service-{user}"), "userId": format!("AIDABENCH{user:012}"),
                    "groups": [], "policies": [{"policyName": "service"}]})
            })
            .collect();
        let service = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["kms:*crypt", "kms:GenerateDataKey*", "kms:DescribeKey", "kms:TagResource"], "Resource": "*"}
        ]});
        let identities = json!({"accounts": [{"accountId": ACCOUNT, "name": null}], "groups": [], "roles": [], "users": users,
            "policies": [{"accountId": ACCOUNT, "policyName": "service", "policyDocument": service}]});
        let change = |name: &str, source: &str, parameters: Value, additional: Value| {
            json!({"eventSource": source, "eventName": name, "awsRegion": "us-east-1", "readOnly": false,
                "eventType": "AwsServiceEvent", "requestParameters": parameters, "additionalEventData": additional})
        };
        let mut events = vec![change(
            "LoadIdentities",
            "keytrail.internal",
            json!({"identities": identities}),
            json!({"judgedAtMicros": START_US}),
        )];
        let policy = keytrail_kms::policy::default_key_policy(ACCOUNT);
        for key in 0..KEYS {
            let image = json!({"keyArn": self.key_arn(key), "account": ACCOUNT, "keyState": "Enabled", "keySpec": "SYMMETRIC_DEFAULT",
                "keyUsage": "ENCRYPT_DECRYPT", "origin": "AWS_KMS", "policySha256": "default", "tags": {}});
            let additional = json!({"judgedAtMicros": START_US, "after": image, "policy": policy});
            events.push(change("CreateKey", "kms.amazonaws.com", Value::Null, additional));
        }
        let frames = events.into_iter().map(|event| self.frame_of(event.to_string()));
        frames.collect::<Vec<_>>().into_iter().map(|frame| SourceFrame { log: self.chain.log, frame }).collect()
    }

    /// The ARN of a key of the stream.
    pub(crate) fn key_arn(&self, key: u64) -> String {
        format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{}", uuid(&sha256(&[&key.to_be_bytes()]), 4))
    }

    fn frame(&mut self) -> Frame {
        let event = self.event(self.time_us());
        self.frame_of(event)
    }

    fn time_us(&self) -> u64 {
        START_US + self.chain.seq * STEP_US
    }

    fn frame_of(&mut self, event: String) -> Frame {
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&self.random().to_be_bytes());
        self.chain.frame(self.time_us(), salt, Bytes::from(event))
    }

    fn event(&mut self, time_us: u64) -> String {
        let (user, key) = (self.below(USERS), self.below(KEYS));
        // Few contexts each, as applications have: no rule may fire.
        let tenant = user * 16 + self.below(16);
        let (name, read_only) = match self.below(100) {
            0..70 => ("Decrypt", true),
            70..90 => ("GenerateDataKey", true),
            90..96 => ("Encrypt", true),
            96..99 => ("DescribeKey", true),
            _ => ("TagResource", false),
        };
        let denied = self.below(500) == 0;
        let error = if denied { "\"errorCode\":\"AccessDenied\",\"errorMessage\":\"not authorized\"," } else { "" };
        let arn = self.key_arn(key);
        let seconds = chrono::DateTime::from_timestamp_micros(i64::try_from(time_us).unwrap_or(0)).unwrap_or_default();
        let seconds = seconds.format("%Y-%m-%dT%H:%M:%SZ");
        let (request, event) = (self.uuid_v7(time_us), self.uuid_v7(time_us));
        format!(
            "{{\"eventVersion\":\"1.11\",\"userIdentity\":{{\"type\":\"IAMUser\",\"principalId\":\"AIDABENCH{user:012}\",\
             \"arn\":\"arn:aws:iam::{ACCOUNT}:user/service-{user}\",\"accountId\":\"{ACCOUNT}\",\
             \"accessKeyId\":\"AKIABENCH{user:011}\",\"userName\":\"service-{user}\"}},\"eventTime\":\"{seconds}\",\
             \"eventSource\":\"kms.amazonaws.com\",\"eventName\":\"{name}\",\"awsRegion\":\"us-east-1\",\
             \"sourceIPAddress\":\"127.0.0.1\",\"userAgent\":\"aws-sdk-rust/1.3 os/linux lang/rust/1.95\",{error}\
             \"requestParameters\":{{\"keyId\":\"{arn}\",\"encryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\
             \"encryptionContext\":{{\"tenant\":\"{tenant}\",\"purpose\":\"orders\"}}}},\"responseElements\":null,\
             \"additionalEventData\":{{\"judgedAtMicros\":{time_us},\"decidedBy\":\"IdentityPolicy/service/0\",\
             \"keyMaterialId\":\"{}\"}},\"requestID\":\"{request}\",\"eventID\":\"{event}\",\"readOnly\":{read_only},\
             \"resources\":[{{\"ARN\":\"{arn}\",\"accountId\":\"{ACCOUNT}\",\"type\":\"AWS::KMS::Key\"}}],\
             \"eventType\":\"AwsApiCall\",\"managementEvent\":true,\"recipientAccountId\":\"{ACCOUNT}\",\
             \"eventCategory\":\"Management\"}}",
            hex::encode(sha256(&[b"material", &key.to_be_bytes()])),
        )
    }

    /// A UUIDv7-shaped id: the time in front, the rest from the stream.
    fn uuid_v7(&mut self, time_us: u64) -> String {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&((time_us / 1000) << 16).to_be_bytes());
        bytes[8..].copy_from_slice(&self.random().to_be_bytes());
        uuid(&bytes, 7)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound
    }

    /// xorshift64*: enough for spreading load, useless for secrets.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn uuid(bytes: &[u8], version: u8) -> String {
    let mut text = hex::encode(&bytes[..16]);
    text.replace_range(12..13, &version.to_string());
    text.replace_range(16..17, "8");
    for at in [8, 13, 18, 23] {
        text.insert(at, '-');
    }
    text
}
