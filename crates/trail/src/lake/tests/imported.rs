//! A second log in the lake with a writer of its own: neither writer disturbs the other, and both are seen.

use super::*;
use crate::lake::decode::decode_imported;
use crate::lake::decode::tests::verified;
use arrow::datatypes::TimestampMicrosecondType;
use keytrail_kms::chain::Leaf;
use keytrail_kms::chain::LogId;
use keytrail_kms::chain::leaf::payload_digest;

const ORIGIN: &str = "keytrail-import/test-0123456789abcdef";

fn open_import(root: &Path) -> (Lake, Opened) {
    Lake::open_imported(root, ORIGIN, options(), Arc::new(FakeClock::default())).unwrap()
}

/// Appends records with these payloads to the imported log.
fn import(lake: &mut Lake, payloads: &[String]) {
    let log = LogId::of_origin(ORIGIN);
    let mut position = lake.positions().get(&log).copied().unwrap_or(Position::START);
    let first_seq = position.next_seq;
    let mut frames = Vec::new();
    for payload in payloads {
        let leaf = Leaf {
            log,
            epoch: 1,
            seq: position.next_seq,
            kind: Kind::Event,
            time_us: 1_800_000_000_000_000,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: payload_digest(&[7; 16], payload.as_bytes()),
            prev: position.link,
        };
        let frame = Frame { leaf: leaf.encode(), salt: [7; 16], payload: Bytes::copy_from_slice(payload.as_bytes()) };
        position = Position { next_seq: leaf.seq + 1, link: frame.link() };
        frames.push(VerifiedFrame { leaf, frame });
    }
    lake.append(&Landed { log, first_seq, frames }).unwrap();
}

fn call(day: u32) -> String {
    format!("{{\"eventName\":\"Imported\",\"eventTime\":\"2024-01-{day:02}T00:00:00Z\",\"eventID\":\"{day}\"}}")
}

#[tokio::test]
async fn two_writers_of_two_logs_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut import_lake, _) = open_import(dir.path());
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 10);
    import(&mut import_lake, &[call(1), call(2)]);
    assert_eq!(number(&lake, "SELECT count(*) FROM records").await, 10, "nothing of the import is committed yet");
    import_lake.flush().await.unwrap();
    lake.flush().await.unwrap();
    lake.refresh_imported().unwrap();
    assert_eq!(number(&lake, "SELECT count(*) FROM events").await, 12);
    assert_eq!(number(&lake, "SELECT count(DISTINCT log) FROM events").await, 2);

    // Neither takes the other's log, neither removes what the other is writing, and a restart is none's business.
    let log = LogId::of_origin(ORIGIN);
    let half = dir.path().join(data_folder(log)).join(".tmp-00000000000000000002");
    let own_half = dir.path().join(data_folder(super::log())).join(".tmp-00000000000000000010");
    fs::write(&half, b"half").unwrap();
    drop(lake);
    let (mut lake, opened) = open(dir.path());
    assert_eq!(opened.positions.keys().copied().collect::<Vec<_>>(), [super::log()]);
    assert!(opened.strays.is_empty() && half.exists());
    assert!(matches!(
        Lake::open_imported(dir.path(), ORIGIN, options(), Arc::new(FakeClock::default())),
        Err(LakeError::Locked)
    ));
    fs::write(&own_half, b"half").unwrap();
    drop(import_lake);
    let (mut import_lake, opened) = open_import(dir.path());
    assert_eq!(opened.positions.keys().copied().collect::<Vec<_>>(), [log]);
    assert!(own_half.exists() && !half.exists());
    fs::remove_file(own_half).unwrap();

    // Each merges its own files only.
    for day in 3..9 {
        import(&mut import_lake, &[call(day), call(day + 10)]);
        import_lake.flush().await.unwrap();
    }
    lake.refresh_imported().unwrap();
    lake.compact().await.unwrap();
    assert_eq!(lake.snapshot().logs()[&log].files.len(), 7);
    import_lake.compact().await.unwrap();
    lake.refresh_imported().unwrap();
    assert_eq!(lake.snapshot().logs()[&log].files.len(), 1);
    assert_eq!(number(&lake, "SELECT count(*) FROM events").await, 24);
    assert_eq!(check(dir.path()).unwrap().rows, 24);

    // The trail cannot be made to write it.
    let frame = verified(14, Kind::Event, b"{}");
    let foreign = Landed { log, first_seq: 14, frames: vec![frame] };
    assert!(matches!(lake.append(&foreign), Err(LakeError::Imported { .. })));
}

#[tokio::test]
async fn a_damaged_import_is_left_out_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (mut import_lake, _) = open_import(dir.path());
    for day in 1..=2 {
        import(&mut import_lake, &[call(day)]);
        import_lake.flush().await.unwrap();
    }
    let commit = dir.path().join(commits_folder(LogId::of_origin(ORIGIN))).join(commit_name(0));
    fs::write(&commit, b"{}").unwrap();
    let (mut lake, _) = open(dir.path());
    append(&mut lake, 3);
    lake.flush().await.unwrap();
    assert_dense(&lake, 3).await;
    assert!(commit.exists(), "evidence stays as it is");
}

#[tokio::test]
async fn times_of_events_find_files_and_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lake, _) = open_import(dir.path());
    import(&mut lake, &[call(1), call(2)]);
    lake.flush().await.unwrap();
    import(&mut lake, &[call(20), call(21)]);
    lake.flush().await.unwrap();
    let snapshot = lake.snapshot();
    let ranges: Vec<(i64, i64)> = snapshot.files().map(|file| file.event_times()).collect();
    let day = 24 * 3_600_000_000;
    let first = 1_704_067_200_000_000;
    assert_eq!(ranges, [(first, first + day), (first + 19 * day, first + 20 * day)]);
    let since = "SELECT count(*) FROM events WHERE event_time >= '2024-01-02T00:00:00Z' AND event_time < '2024-01-21'";
    assert_eq!(number(&lake, since).await, 2);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE event_time > '2026-01-01'").await, 0);
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE leaf_time_us > 1790000000000000").await, 4);
}

#[tokio::test]
async fn imported_records_do_not_change_the_tables_of_our_own_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (mut import_lake, _) = open_import(dir.path());
    let payload = "{\"eventName\":\"CreateKey\",\"eventTime\":\"2024-01-01T00:00:00Z\",\"readOnly\":false,\"additionalEventData\":\
        {\"after\":{\"keyArn\":\"arn:aws:kms:eu-central-1:1:key/k\",\"keyState\":\"Enabled\"},\"policy\":\"{}\"}}";
    import(&mut import_lake, &[payload.to_owned()]);
    import_lake.flush().await.unwrap();
    let (lake, _) = open(dir.path());
    assert_eq!(number(&lake, "SELECT count(*) FROM events WHERE key_state_after = 'Enabled'").await, 1);
    assert_eq!(number(&lake, "SELECT count(*) FROM keys").await, 0);
    assert_eq!(number(&lake, "SELECT count(*) FROM key_policies").await, 0);
}

fn row(payload: &str) -> RecordBatch {
    decode_imported(&[verified(0, Kind::Event, payload.as_bytes())])
}

fn cell(batch: &RecordBatch, name: &str) -> Option<String> {
    let column = arrow::compute::cast(batch.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    let column = column.as_string::<i32>();
    column.is_valid(0).then(|| column.value(0).to_owned())
}

/// Every kind of identity that CloudTrail has: type, actor class, ARN, account.
const IDENTITIES: &[(&str, &str, Option<&str>, Option<&str>)] = &[
    (
        r#"{"type":"Root","principalId":"111122223333","arn":"arn:aws:iam::111122223333:root","accountId":"111122223333"}"#,
        "root",
        Some("arn:aws:iam::111122223333:root"),
        Some("111122223333"),
    ),
    (
        r#"{"type":"IAMUser","arn":"arn:aws:iam::1:user/a","accountId":1,"userName":"a"}"#,
        "user",
        Some("arn:aws:iam::1:user/a"),
        Some("1"),
    ),
    (
        r#"{"type":"AssumedRole","principalId":"AROA1:s","arn":"arn:aws:sts::1:assumed-role/r/s","accountId":"1","sessionContext":{"sessionIssuer":{"type":"Role","userName":"r"},"webIdFederationData":{},"attributes":{"mfaAuthenticated":"true"}}}"#,
        "role",
        Some("arn:aws:sts::1:assumed-role/r/s"),
        Some("1"),
    ),
    (
        r#"{"type":"Role","arn":"arn:aws:iam::1:role/r","accountId":"1"}"#,
        "role",
        Some("arn:aws:iam::1:role/r"),
        Some("1"),
    ),
    (
        r#"{"type":"FederatedUser","arn":"arn:aws:sts::1:federated-user/f","accountId":"1"}"#,
        "role",
        Some("arn:aws:sts::1:federated-user/f"),
        Some("1"),
    ),
    (r#"{"type":"Directory","userName":"d","accountId":"1"}"#, "user", None, Some("1")),
    (r#"{"type":"AWSAccount","principalId":"AROA2:x","accountId":"2"}"#, "user", None, Some("2")),
    (
        r#"{"type":"AWSAccount","principalId":"","accountId":"ANONYMOUS_PRINCIPAL"}"#,
        "anonymous",
        None,
        Some("ANONYMOUS_PRINCIPAL"),
    ),
    (r#"{"type":"AWSService","invokedBy":"s3.amazonaws.com"}"#, "service", None, None),
    (r#"{"type":"SAMLUser","principalId":"n:u","userName":"u","identityProvider":"n"}"#, "role", None, None),
    (r#"{"type":"WebIdentityUser","principalId":"p:a:u","userName":"u","identityProvider":"p"}"#, "role", None, None),
    (
        r#"{"type":"IdentityCenterUser","accountId":"1","onBehalfOf":{"userId":"u","identityStoreArn":"arn:x"},"credentialId":"c"}"#,
        "user",
        None,
        Some("1"),
    ),
    (r#"{"type":"Unknown","principalId":"x"}"#, "anonymous", None, None),
    (r#"{"accountId":"1","invokedBy":"AWS Internal"}"#, "service", None, Some("1")),
    ("null", "anonymous", None, None),
    (
        r#"{"type":"IAMUser","arn":"arn:aws:iam::1:keytrail/responder"}"#,
        "user",
        Some("arn:aws:iam::1:keytrail/responder"),
        None,
    ),
];

#[test]
fn every_kind_of_identity_lands() {
    for (identity, actor_class, arn, account) in IDENTITIES {
        let batch = row(&format!(
            "{{\"eventVersion\":\"1.02\",\"eventName\":\"X\",\"eventTime\":\"2024-02-29T23:59:59Z\",\"userIdentity\":{identity}}}"
        ));
        assert_eq!(cell(&batch, "parse_error"), None, "{identity}");
        assert_eq!(cell(&batch, "actor_class").as_deref(), Some(*actor_class), "{identity}");
        assert_eq!(cell(&batch, "principal_arn").as_deref(), *arn, "{identity}");
        assert_eq!(cell(&batch, "principal_account").as_deref(), *account, "{identity}");
        assert_eq!(cell(&batch, "account"), None, "recipientAccountId is younger than the record");
        let time = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(time, 1_709_251_199_000_000);
        assert_eq!(cell(&batch, "mfa").is_some(), identity.contains("mfaAuthenticated"));
    }
}

#[test]
fn what_other_services_write_under_kms_names_does_no_harm() {
    let with = |more: &str| row(&format!("{{\"eventName\":\"X\",\"eventTime\":\"2024-01-01T00:00:00Z\",{more}}}"));
    for (more, column, value) in [
        (r#""requestParameters":{"pendingWindowInDays":"7"}"#, "pending_window_days", Some("7")),
        (r#""requestParameters":{"pendingWindowInDays":{"a":1}}"#, "pending_window_days", None),
        (r#""requestParameters":{"policy":{"Version":"2012-10-17"}}"#, "policy", None),
        (r#""requestParameters":{"policy":"{}"}"#, "policy", Some("{}")),
        (r#""requestParameters":{"encryptionContext":"none"}"#, "enc_context", None),
        (
            r#""requestParameters":{"encryptionContext":{"b":"2","a":"1"}}"#,
            "enc_context",
            Some("{\"a\":\"1\",\"b\":\"2\"}"),
        ),
        (r#""requestParameters":"text""#, "request_parameters", Some("\"text\"")),
        (r#""requestParameters":null,"additionalEventData":[1]"#, "additional", Some("[1]")),
        (r#""additionalEventData":{"before":"x","after":{"keyState":5}}"#, "key_state_after", Some("5")),
        (r#""readOnly":"true""#, "read_only", Some("true")),
        (r#""errorCode":404"#, "error_code", Some("404")),
        (
            r#""resources":[{"type":"AWS::S3::Object","ARNPrefix":"arn:aws:s3:::b/"},{"ARN":"arn:aws:kms:eu-central-1:1:key/k","accountId":"1"}]"#,
            "key_id",
            Some("k"),
        ),
        (
            r#""resources":[{"ARN":"arn:aws:kms:eu-central-1:1:alias/x","accountId":"1"}]"#,
            "alias_arn",
            Some("arn:aws:kms:eu-central-1:1:alias/x"),
        ),
        (r#""resources":[{"ARN":"arn:aws:s3:::b/key/x"}]"#, "key_arn", None),
        (
            r#""userIdentity":{"type":"IAMUser","sessionContext":{"attributes":{"mfaAuthenticated":false}}}"#,
            "mfa",
            Some("false"),
        ),
    ] {
        let batch = with(more);
        assert_eq!(cell(&batch, "parse_error"), None, "{more}");
        assert_eq!(cell(&batch, column).as_deref(), value, "{more}");
        assert_eq!(cell(&batch, "event_name").as_deref(), Some("X"));
    }
    let insight = row(
        r#"{"eventTime":"2024-01-01T00:00:00Z","eventType":"AwsCloudTrailInsight","eventID":"i","insightDetails":{"eventName":"Decrypt"}}"#,
    );
    assert_eq!((cell(&insight, "parse_error"), cell(&insight, "event_name")), (None, None));
    assert_eq!(cell(&insight, "event_type").as_deref(), Some("AwsCloudTrailInsight"));
}

#[test]
fn odd_records_are_rows_that_say_so() {
    for (payload, reason) in [
        ("12", "invalid type"),
        ("{\"eventName\":\"X\"}", "eventTime is missing"),
        ("{\"eventName\":\"X\",\"eventTime\":\"Aug 10, 2022\"}", "eventTime is no time"),
        ("{\"eventTime\":\"2024-01-01T00:00:00Z\"}", "eventName is missing"),
        ("{\"eventName\":\"X\",\"eventTime\":\"2024-01-01T00:00:00Z\"", "EOF"),
    ] {
        let batch = row(payload);
        let error = cell(&batch, "parse_error").unwrap();
        assert!(error.contains(reason), "{payload}: {error}");
        assert_eq!(cell(&batch, "event_name"), None);
        let time = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(time, 1_767_614_400_000_000, "the leaf's time");
    }
}
