//! Verified frames to rows: the one decoder behind files, tail, rules and backtests.
//!
//! Every frame becomes exactly one row. A kind-1 payload that cannot be parsed keeps its leaf fields and its bytes and
//! says why in `parse_error`; nothing ever leaves the sequence. The payload's bytes pass through as `raw` unchanged.
//! In an imported log the event happened at its `eventTime`, in our own ones when its leaf was written.

use super::payload::{Additional, Event, Identity, Lax, Parameters, key_state};
use super::rebuild::Record;
use super::schema::{ZONE, records_schema};
use crate::land::VerifiedFrame;
use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use keytrail_kms::chain::{Kind, Leaf, Salt};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Decodes frames into one batch of `records_schema`, row for row in the order given.
pub fn decode(frames: &[VerifiedFrame]) -> RecordBatch {
    rows(frames, false)
}

/// [`decode`] for an imported log, whose `event_time` is the record's own.
pub fn decode_imported(frames: &[VerifiedFrame]) -> RecordBatch {
    rows(frames, true)
}

fn rows(frames: &[VerifiedFrame], imported: bool) -> RecordBatch {
    let mut rows = Rows::with_capacity(frames.len(), frames.iter().map(|verified| verified.frame.payload.len()).sum());
    for VerifiedFrame { leaf, frame } in frames {
        rows.push(leaf, Some((&frame.salt, &frame.payload)), imported);
    }
    rows.finish()
}

/// Decodes records of which some have no payload: their rows keep the leaf's fields, digest included, and nothing else.
/// `imported` as for [`decode_imported`].
pub(crate) fn decode_records(records: &[Record], imported: bool) -> RecordBatch {
    let bytes = records.iter().filter_map(|record| record.body.as_ref()).map(|(_, payload)| payload.len()).sum();
    let mut rows = Rows::with_capacity(records.len(), bytes);
    for Record { leaf, body } in records {
        rows.push(leaf, body.as_ref().map(|(salt, payload)| (salt, &**payload)), imported);
    }
    rows.finish()
}

/// Column builders, in the order of the schema.
struct Rows {
    log: StringBuilder,
    seq: Int64Builder,
    epoch: Int64Builder,
    kind: Int32Builder,
    leaf_time_us: Int64Builder,
    event_time: TimestampMicrosecondBuilder,
    event_id: StringBuilder,
    request_id: StringBuilder,
    event_source: StringBuilder,
    event_name: StringBuilder,
    event_type: StringBuilder,
    read_only: BooleanBuilder,
    error_code: StringBuilder,
    error_message: StringBuilder,
    principal_arn: StringBuilder,
    principal_type: StringBuilder,
    principal_id: StringBuilder,
    principal_account: StringBuilder,
    user_name: StringBuilder,
    access_key_id: StringBuilder,
    invoked_by: StringBuilder,
    actor_class: StringBuilder,
    mfa: BooleanBuilder,
    source_ip: StringBuilder,
    user_agent: StringBuilder,
    region: StringBuilder,
    account: StringBuilder,
    key_arn: StringBuilder,
    key_id: StringBuilder,
    key_account: StringBuilder,
    alias_arn: StringBuilder,
    enc_context: StringBuilder,
    policy: StringBuilder,
    pending_window_days: Int32Builder,
    key_state_before: StringBuilder,
    key_state_after: StringBuilder,
    decided_by: StringBuilder,
    action_id: StringBuilder,
    repeat_of: StringBuilder,
    request_parameters: StringBuilder,
    response_elements: StringBuilder,
    additional: StringBuilder,
    parse_error: StringBuilder,
    payload_len: Int32Builder,
    payload_digest: BinaryBuilder,
    salt: BinaryBuilder,
    raw: BinaryBuilder,
    /// The last log's id as text, made once per run of equal logs.
    log_text: Option<(keytrail_kms::chain::LogId, String)>,
}

impl Rows {
    fn with_capacity(rows: usize, raw_bytes: usize) -> Self {
        let text = |bytes_each: usize| StringBuilder::with_capacity(rows, rows * bytes_each);
        Self {
            log: text(32),
            seq: Int64Builder::with_capacity(rows),
            epoch: Int64Builder::with_capacity(rows),
            kind: Int32Builder::with_capacity(rows),
            leaf_time_us: Int64Builder::with_capacity(rows),
            event_time: TimestampMicrosecondBuilder::with_capacity(rows),
            event_id: text(36),
            request_id: text(36),
            event_source: text(20),
            event_name: text(12),
            event_type: text(10),
            read_only: BooleanBuilder::with_capacity(rows),
            error_code: text(4),
            error_message: text(8),
            principal_arn: text(40),
            principal_type: text(8),
            principal_id: text(24),
            principal_account: text(12),
            user_name: text(12),
            access_key_id: text(20),
            invoked_by: text(0),
            actor_class: text(8),
            mfa: BooleanBuilder::with_capacity(rows),
            source_ip: text(14),
            user_agent: text(40),
            region: text(10),
            account: text(12),
            key_arn: text(76),
            key_id: text(36),
            key_account: text(12),
            alias_arn: text(0),
            enc_context: text(48),
            policy: text(0),
            pending_window_days: Int32Builder::with_capacity(rows),
            key_state_before: text(0),
            key_state_after: text(0),
            decided_by: text(24),
            action_id: text(0),
            repeat_of: text(0),
            request_parameters: text(200),
            response_elements: text(0),
            additional: text(120),
            parse_error: text(0),
            payload_len: Int32Builder::with_capacity(rows),
            payload_digest: BinaryBuilder::with_capacity(rows, 0),
            salt: BinaryBuilder::with_capacity(rows, rows * 16),
            raw: BinaryBuilder::with_capacity(rows, raw_bytes),
            log_text: None,
        }
    }

    fn push(&mut self, leaf: &Leaf, body: Option<(&Salt, &[u8])>, imported: bool) {
        self.push_leaf(leaf, body);
        let leaf_time_us = signed(leaf.time_us);
        let Some((_, payload)) = body.filter(|_| leaf.kind == Kind::Event) else {
            self.event_time.append_value(leaf_time_us);
            return self.push_no_event(None);
        };
        let parsed = std::str::from_utf8(payload)
            .map_err(|error| format!("payload is not UTF-8: {error}"))
            .and_then(|text| Parsed::of(text).map_err(|error| error.to_string()))
            .and_then(|parsed| {
                let time_us = if imported { parsed.event.time_us()? } else { leaf_time_us };
                Ok((parsed, time_us))
            });
        match parsed {
            Ok((parsed, time_us)) => {
                self.event_time.append_value(time_us);
                self.push_event(parsed, imported);
            }
            Err(reason) => {
                self.event_time.append_value(leaf_time_us);
                self.push_no_event(Some(&reason));
            }
        }
    }

    fn push_leaf(&mut self, leaf: &Leaf, body: Option<(&Salt, &[u8])>) {
        if self.log_text.as_ref().is_none_or(|(log, _)| *log != leaf.log) {
            self.log_text = Some((leaf.log, leaf.log.to_string()));
        }
        self.log.append_option(self.log_text.as_ref().map(|(_, text)| text));
        self.seq.append_value(signed(leaf.seq));
        self.epoch.append_value(signed(leaf.epoch));
        self.kind.append_value(i32::from(leaf.kind as u8));
        self.leaf_time_us.append_value(signed(leaf.time_us));
        self.payload_len.append_value(i32::try_from(leaf.payload_len).unwrap_or(i32::MAX));
        self.payload_digest.append_option(body.is_none().then_some(&leaf.payload_digest));
        self.salt.append_option(body.map(|(salt, _)| salt));
        self.raw.append_option(body.map(|(_, payload)| payload));
    }

    fn push_event(&mut self, parsed: Parsed<'_>, imported: bool) {
        let Parsed { event, parameters, additional, enc_context } = parsed;
        let mut resources = event.resources.iter().flatten();
        let key = resources.clone().find(|resource| resource.is_key());
        let alias = resources.find(|resource| resource.is_alias());
        let key_arn = key.and_then(|key| text(&key.arn));
        let identity = event.user_identity.as_ref();
        put(&mut self.event_id, &event.event_id);
        put(&mut self.request_id, &event.request_id);
        put(&mut self.event_source, &event.event_source);
        self.event_name.append_option(event.event_name.as_ref().map(|name| &*name.0));
        put(&mut self.event_type, &event.event_type);
        self.read_only.append_option(event.read_only.as_ref().and_then(Lax::truth));
        put(&mut self.error_code, &event.error_code);
        put(&mut self.error_message, &event.error_message);
        self.principal_arn.append_option(identity.and_then(|identity| text(&identity.arn)));
        self.principal_type.append_option(identity.and_then(|identity| text(&identity.kind)));
        self.principal_id.append_option(identity.and_then(|identity| text(&identity.principal_id)));
        self.principal_account.append_option(identity.and_then(|identity| text(&identity.account_id)));
        self.user_name.append_option(identity.and_then(|identity| text(&identity.user_name)));
        self.access_key_id.append_option(identity.and_then(|identity| text(&identity.access_key_id)));
        self.invoked_by.append_option(identity.and_then(|identity| text(&identity.invoked_by)));
        self.actor_class.append_value(built_in(identity, imported).unwrap_or_else(|| actor_class(&event, identity)));
        self.mfa.append_option(identity.and_then(Identity::mfa));
        put(&mut self.source_ip, &event.source_ip);
        put(&mut self.user_agent, &event.user_agent);
        put(&mut self.region, &event.aws_region);
        put(&mut self.account, &event.recipient_account_id);
        self.key_arn.append_option(key_arn);
        self.key_id.append_option(key_arn.and_then(|arn| arn.split_once(":key/")).map(|(_, id)| id));
        self.key_account.append_option(key.and_then(|key| text(&key.account_id)));
        self.alias_arn.append_option(alias.and_then(|alias| text(&alias.arn)));
        self.enc_context.append_option(enc_context);
        self.policy.append_option(text(&additional.policy).or(text(&parameters.policy)));
        self.pending_window_days.append_option(parameters.pending_window_in_days.as_ref().and_then(Lax::number));
        self.key_state_before.append_option(key_state(additional.before));
        self.key_state_after.append_option(key_state(additional.after));
        put(&mut self.decided_by, &additional.decided_by);
        put(&mut self.action_id, &additional.action_id);
        put(&mut self.repeat_of, &additional.repeat_of);
        self.request_parameters.append_option(event.request_parameters.map(RawValue::get));
        self.response_elements.append_option(event.response_elements.map(RawValue::get));
        self.additional.append_option(event.additional_event_data.map(RawValue::get));
        self.parse_error.append_null();
    }

    /// A row of another kind, or of an event that cannot be read.
    fn push_no_event(&mut self, parse_error: Option<&str>) {
        for column in self.event_texts() {
            column.append_null();
        }
        self.read_only.append_null();
        self.mfa.append_null();
        self.pending_window_days.append_null();
        self.parse_error.append_option(parse_error);
    }

    fn event_texts(&mut self) -> [&mut StringBuilder; 33] {
        [
            &mut self.event_id,
            &mut self.request_id,
            &mut self.event_source,
            &mut self.event_name,
            &mut self.event_type,
            &mut self.error_code,
            &mut self.error_message,
            &mut self.principal_arn,
            &mut self.principal_type,
            &mut self.principal_id,
            &mut self.principal_account,
            &mut self.user_name,
            &mut self.access_key_id,
            &mut self.invoked_by,
            &mut self.actor_class,
            &mut self.source_ip,
            &mut self.user_agent,
            &mut self.region,
            &mut self.account,
            &mut self.key_arn,
            &mut self.key_id,
            &mut self.key_account,
            &mut self.alias_arn,
            &mut self.enc_context,
            &mut self.policy,
            &mut self.key_state_before,
            &mut self.key_state_after,
            &mut self.decided_by,
            &mut self.action_id,
            &mut self.repeat_of,
            &mut self.request_parameters,
            &mut self.response_elements,
            &mut self.additional,
        ]
    }

    fn finish(mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.log.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.epoch.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.leaf_time_us.finish()),
            Arc::new(self.event_time.finish().with_timezone(ZONE)),
            Arc::new(self.event_id.finish()),
            Arc::new(self.request_id.finish()),
            Arc::new(self.event_source.finish()),
            Arc::new(self.event_name.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.read_only.finish()),
            Arc::new(self.error_code.finish()),
            Arc::new(self.error_message.finish()),
            Arc::new(self.principal_arn.finish()),
            Arc::new(self.principal_type.finish()),
            Arc::new(self.principal_id.finish()),
            Arc::new(self.principal_account.finish()),
            Arc::new(self.user_name.finish()),
            Arc::new(self.access_key_id.finish()),
            Arc::new(self.invoked_by.finish()),
            Arc::new(self.actor_class.finish()),
            Arc::new(self.mfa.finish()),
            Arc::new(self.source_ip.finish()),
            Arc::new(self.user_agent.finish()),
            Arc::new(self.region.finish()),
            Arc::new(self.account.finish()),
            Arc::new(self.key_arn.finish()),
            Arc::new(self.key_id.finish()),
            Arc::new(self.key_account.finish()),
            Arc::new(self.alias_arn.finish()),
            Arc::new(self.enc_context.finish()),
            Arc::new(self.policy.finish()),
            Arc::new(self.pending_window_days.finish()),
            Arc::new(self.key_state_before.finish()),
            Arc::new(self.key_state_after.finish()),
            Arc::new(self.decided_by.finish()),
            Arc::new(self.action_id.finish()),
            Arc::new(self.repeat_of.finish()),
            Arc::new(self.request_parameters.finish()),
            Arc::new(self.response_elements.finish()),
            Arc::new(self.additional.finish()),
            Arc::new(self.parse_error.finish()),
            Arc::new(self.payload_len.finish()),
            Arc::new(self.payload_digest.finish()),
            Arc::new(self.salt.finish()),
            Arc::new(self.raw.finish()),
        ];
        RecordBatch::try_new(records_schema(), columns).expect("each row appends once to each column of the schema")
    }
}

/// An event with the parts of its nested objects that become columns; all or nothing.
struct Parsed<'a> {
    event: Event<'a>,
    parameters: Parameters<'a>,
    additional: Additional<'a>,
    enc_context: Option<String>,
}

impl<'a> Parsed<'a> {
    fn of(payload: &'a str) -> Result<Self, serde_json::Error> {
        let event: Event<'a> = serde_json::from_str(payload)?;
        event.check_name()?;
        // Other services have other things in these places, of which some are no objects.
        let object = |raw: Option<&'a RawValue>| raw.map(RawValue::get).filter(|text| text.starts_with('{'));
        let parameters: Parameters<'a> = match object(event.request_parameters) {
            Some(text) => serde_json::from_str(text)?,
            None => Parameters::default(),
        };
        let additional = match object(event.additional_event_data) {
            Some(text) => serde_json::from_str(text)?,
            None => Additional::default(),
        };
        let enc_context = match parameters.encryption_context() {
            Some(pairs) => {
                let mut json = Vec::with_capacity(64);
                pairs.sorted_json(&mut json)?;
                Some(String::from_utf8(json).expect("serde_json writes UTF-8"))
            }
            None => None,
        };
        Ok(Self { event, parameters, additional, enc_context })
    }
}

/// The built-in principals are known by their exact ARN form, which no identity file can give to a user (users live
/// under `user/`). In an imported log it would be somebody's claim.
fn built_in(identity: Option<&Identity<'_>>, imported: bool) -> Option<&'static str> {
    let arn = identity.and_then(|identity| text(&identity.arn)).filter(|_| !imported)?;
    match arn.strip_prefix("arn:aws:iam::")?.split_once(':')?.1 {
        "keytrail/responder" => Some("responder"),
        "keytrail/trail" => Some("trail"),
        _ => None,
    }
}

/// Who acted otherwise, as rules tell actors apart.
fn actor_class(event: &Event<'_>, identity: Option<&Identity<'_>>) -> &'static str {
    if text(&event.event_type) == Some("AwsServiceEvent") {
        return "service";
    }
    match identity.and_then(|identity| text(&identity.kind)) {
        Some("AWSService") => "service",
        Some("Root") => "root",
        Some("AssumedRole" | "Role" | "FederatedUser" | "SAMLUser" | "WebIdentityUser") => "role",
        Some("IAMUser" | "Directory" | "IdentityCenterUser") => "user",
        // S3 has no better word for a caller without credentials.
        Some("AWSAccount") if identity.is_some_and(Identity::is_nobody) => "anonymous",
        // Another account's caller, of whom AWS shows the account only.
        Some("AWSAccount") => "user",
        None if identity.is_some_and(|identity| identity.invoked_by.is_some()) => "service",
        _ => "anonymous",
    }
}

fn text<'e>(member: &'e Option<Lax<'_>>) -> Option<&'e str> {
    member.as_ref().and_then(Lax::text)
}

fn put(column: &mut StringBuilder, member: &Option<Lax<'_>>) {
    column.append_option(text(member));
}

/// SQL has no unsigned 64-bit type that all clients read; seqs and microseconds stay far below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    use bytes::Bytes;
    use keytrail_kms::chain::leaf::payload_digest;
    use keytrail_kms::chain::{Leaf, Link, LogId};
    use keytrail_kms::journal::Frame;

    pub(crate) const DENIED: &str = r#"{"eventVersion":"1.11","userIdentity":{"type":"IAMUser","principalId":"AIDA1","arn":"arn:aws:iam::111122223333:user/mallory","accountId":"111122223333","accessKeyId":"AKIA1","userName":"mallory","sessionContext":{"attributes":{"mfaAuthenticated":"false"}}},"eventTime":"2026-01-05T12:00:00Z","eventSource":"kms.amazonaws.com","eventName":"Decrypt","awsRegion":"eu-central-1","sourceIPAddress":"192.0.2.7","userAgent":"a \"quoted\" agent","errorCode":"AccessDenied","errorMessage":"no","requestParameters":{"keyId":"arn:aws:kms:eu-central-1:111122223333:key/k-1","encryptionContext":{"b":"2","a":"\u00e4\n"},"pendingWindowInDays":7},"responseElements":null,"additionalEventData":{"judgedAtMicros":1767614400000000,"decidedBy":"KeyPolicy/Deny1","before":{"keyState":"Enabled"},"after":{"keyState":"Disabled"},"policy":"{}","actionId":"act-1"},"requestID":"019b8d3e-0000-7000-8000-000000000001","eventID":"019b8d3e-0000-7000-8000-000000000002","readOnly":true,"resources":[{"ARN":"arn:aws:kms:eu-central-1:111122223333:alias/app","accountId":"111122223333","type":"AWS::KMS::Alias"},{"ARN":"arn:aws:kms:eu-central-1:111122223333:key/k-1","accountId":"111122223333","type":"AWS::KMS::Key"}],"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management"}"#;

    pub(crate) fn verified(seq: u64, kind: Kind, payload: &[u8]) -> VerifiedFrame {
        let salt = [7; 16];
        let leaf = Leaf {
            log: LogId::of_origin("keytrail/test/node-0123456789abcdef"),
            epoch: 1,
            seq,
            kind,
            time_us: 1_767_614_400_000_000 + seq,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: payload_digest(&salt, payload),
            prev: Link::ZERO,
        };
        let frame = Frame { leaf: leaf.encode(), salt, payload: Bytes::copy_from_slice(payload) };
        VerifiedFrame { leaf, frame }
    }

    fn text_at<'b>(batch: &'b RecordBatch, name: &str, row: usize) -> Option<&'b str> {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    #[test]
    fn a_call_fills_its_columns() {
        let batch = decode(&[verified(5, Kind::Event, DENIED.as_bytes())]);
        assert_eq!(batch.schema(), records_schema());
        let expected = [
            ("event_id", Some("019b8d3e-0000-7000-8000-000000000002")),
            ("request_id", Some("019b8d3e-0000-7000-8000-000000000001")),
            ("event_source", Some("kms.amazonaws.com")),
            ("event_name", Some("Decrypt")),
            ("event_type", Some("AwsApiCall")),
            ("error_code", Some("AccessDenied")),
            ("error_message", Some("no")),
            ("principal_arn", Some("arn:aws:iam::111122223333:user/mallory")),
            ("principal_type", Some("IAMUser")),
            ("principal_id", Some("AIDA1")),
            ("principal_account", Some("111122223333")),
            ("user_name", Some("mallory")),
            ("access_key_id", Some("AKIA1")),
            ("invoked_by", None),
            ("actor_class", Some("user")),
            ("source_ip", Some("192.0.2.7")),
            ("user_agent", Some("a \"quoted\" agent")),
            ("region", Some("eu-central-1")),
            ("account", Some("111122223333")),
            ("key_arn", Some("arn:aws:kms:eu-central-1:111122223333:key/k-1")),
            ("key_id", Some("k-1")),
            ("key_account", Some("111122223333")),
            ("alias_arn", Some("arn:aws:kms:eu-central-1:111122223333:alias/app")),
            ("enc_context", Some("{\"a\":\"ä\\n\",\"b\":\"2\"}")),
            ("policy", Some("{}")),
            ("key_state_before", Some("Enabled")),
            ("key_state_after", Some("Disabled")),
            ("decided_by", Some("KeyPolicy/Deny1")),
            ("action_id", Some("act-1")),
            ("repeat_of", None),
            ("response_elements", None),
            ("parse_error", None),
        ];
        for (name, value) in expected {
            assert_eq!(text_at(&batch, name, 0), value, "{name}");
        }
        assert!(text_at(&batch, "request_parameters", 0).unwrap().starts_with("{\"keyId\""));
        assert!(text_at(&batch, "additional", 0).unwrap().contains("judgedAtMicros"));
        let column = |name: &str| batch.column_by_name(name).unwrap();
        assert_eq!(column("seq").as_primitive::<Int64Type>().value(0), 5);
        assert_eq!(column("kind").as_primitive::<Int32Type>().value(0), 1);
        assert_eq!(column("event_time").as_primitive::<TimestampMicrosecondType>().value(0), 1_767_614_400_000_005);
        assert_eq!(column("pending_window_days").as_primitive::<Int32Type>().value(0), 7);
        assert!(!column("mfa").as_boolean().value(0) && column("mfa").is_valid(0));
        assert!(column("read_only").as_boolean().value(0));
        assert_eq!(column("raw").as_binary::<i32>().value(0), DENIED.as_bytes());
        assert!(column("payload_digest").is_null(0));
    }

    #[test]
    fn what_cannot_be_parsed_still_is_a_row() {
        let wrong_type = DENIED.replace("\"Decrypt\"", "5");
        let repeated = DENIED.replace("{\"b\":\"2\",", "{\"a\":\"2\",");
        let payloads: [&[u8]; 5] = [b"{", b"\xff", b"[]", wrong_type.as_bytes(), repeated.as_bytes()];
        for payload in payloads {
            let batch = decode(&[verified(0, Kind::Event, payload)]);
            assert!(text_at(&batch, "parse_error", 0).is_some());
            for name in ["event_name", "principal_arn", "actor_class", "request_parameters", "enc_context"] {
                assert_eq!(text_at(&batch, name, 0), None, "{name}");
            }
            assert_eq!(batch.column_by_name("raw").unwrap().as_binary::<i32>().value(0), payload);
        }
    }

    #[test]
    fn other_kinds_are_rows_without_event_columns() {
        let batch = decode(&[
            verified(0, Kind::EpochStart, b"{\"recordVersion\":1}"),
            verified(1, Kind::Event, DENIED.as_bytes()),
            verified(2, Kind::Heartbeat, b"{\"recordVersion\":1}"),
        ]);
        assert_eq!(batch.num_rows(), 3);
        assert_eq!(text_at(&batch, "event_name", 0), None);
        assert_eq!(text_at(&batch, "parse_error", 2), None);
        assert_eq!(text_at(&batch, "event_name", 1), Some("Decrypt"));
        assert_eq!(batch.column_by_name("kind").unwrap().as_primitive::<Int32Type>().values(), &[3, 1, 5]);
    }

    #[test]
    fn forwarded_calls_are_told_by_service_and_address_in_own_and_imported_logs() {
        let payload = br#"{"eventTime":"2026-01-05T12:00:00Z","eventName":"Decrypt","eventType":"AwsApiCall","sourceIPAddress":"AWS Internal","userAgent":"AWS Internal","userIdentity":{"type":"AssumedRole","arn":"arn:aws:iam::1:keytrail/trail","invokedBy":"AWS Internal"}}"#;
        let frames = [verified(0, Kind::Event, payload)];
        for (batch, class) in [(decode(&frames), "trail"), (decode_imported(&frames), "role")] {
            assert_eq!(
                text_at(&batch, "actor_class", 0),
                Some(class),
                "a built-in's name is a claim in an imported log"
            );
            for name in ["invoked_by", "source_ip", "user_agent"] {
                assert_eq!(text_at(&batch, name, 0), Some("AWS Internal"), "{name}");
            }
        }
    }

    #[test]
    fn actors_are_told_apart() {
        let class_of = |identity: &str, event_type: &str| {
            let payload = format!("{{\"eventName\":\"X\",\"eventType\":\"{event_type}\",\"userIdentity\":{identity}}}");
            let batch = decode(&[verified(0, Kind::Event, payload.as_bytes())]);
            text_at(&batch, "actor_class", 0).unwrap().to_owned()
        };
        let call = "AwsApiCall";
        assert_eq!(class_of(r#"{"arn":"arn:aws:iam::1:keytrail/responder","type":"IAMUser"}"#, call), "responder");
        assert_eq!(class_of(r#"{"arn":"arn:aws:iam::1:keytrail/trail"}"#, call), "trail");
        assert_eq!(class_of(r#"{"arn":"arn:aws:iam::1:user/keytrail/responder","type":"IAMUser"}"#, call), "user");
        assert_eq!(class_of(r#"{"type":"Root"}"#, call), "root");
        assert_eq!(class_of(r#"{"type":"AssumedRole"}"#, call), "role");
        assert_eq!(class_of(r#"{"invokedBy":"AWS Internal"}"#, "AwsServiceEvent"), "service");
        assert_eq!(class_of(r#"{"type":"AWSService","invokedBy":"ec2.amazonaws.com"}"#, call), "service");
        // A service that acts for somebody: the call is theirs, and the client is not in the record.
        assert_eq!(class_of(r#"{"type":"IAMUser","invokedBy":"ec2.amazonaws.com"}"#, call), "user");
        assert_eq!(class_of(r#"{"type":"AssumedRole","invokedBy":"AWS Internal"}"#, call), "role");
        assert_eq!(class_of(r#"{"type":"Unknown"}"#, call), "anonymous");
        assert_eq!(class_of("null", call), "anonymous");
    }
}
