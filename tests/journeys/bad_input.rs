//! Malformed and hostile requests: AWS's error, a record, no panic, and the service goes on.

use crate::support::{Caller, Folder, Running};
use keytrail_kms::auth::credentials::Credentials;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

struct Service {
    folder: Folder,
    up: Running,
    address: String,
    admin: Caller,
}

impl Service {
    fn start() -> Self {
        let folder = Folder::with_people();
        let up = folder.up(&[]);
        let endpoint = up.field("kms");
        let admin = Caller::new(&endpoint, folder.administrator());
        Self { folder, address: endpoint.trim_start_matches("http://").to_owned(), up, admin }
    }

    /// Sends raw bytes and returns status and body.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // The server may refuse an oversized request before it has read all of it.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    }

    fn unsigned(&self, target: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: {target}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.raw((head + body).as_bytes())
    }
}

#[test]
fn malformed_requests_get_aws_errors_and_a_record_each() {
    let service = Service::start();
    let key = service.admin.create_key(json!([]));
    let cases: &[(&str, Value, &str)] = &[
        ("NoSuchOperation", json!({}), "UnknownOperationException"),
        ("Encrypt", json!({ "KeyId": key }), "ValidationException"),
        ("Encrypt", json!({ "KeyId": 7, "Plaintext": "aGk=" }), "SerializationException"),
        ("Encrypt", json!({ "KeyId": key, "Plaintext": "%%%" }), "SerializationException"),
        ("Encrypt", json!({ "KeyId": key, "Plaintext": "" }), "ValidationException"),
        ("Decrypt", json!({ "CiphertextBlob": "AAAA" }), "InvalidCiphertextException"),
        ("DescribeKey", json!({ "KeyId": "00000000-0000-0000-0000-000000000000" }), "NotFoundException"),
        ("DescribeKey", json!({ "KeyId": "alias/none" }), "NotFoundException"),
        ("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 3 }), "ValidationException"),
        ("PutKeyPolicy", json!({ "KeyId": key, "Policy": "{" }), "MalformedPolicyDocumentException"),
        ("CreateAlias", json!({ "AliasName": "alias/aws/x", "TargetKeyId": key }), "NotAuthorizedException"),
        ("Encapsulate", json!({}), "UnsupportedOperationException"),
    ];
    let before =
        service.folder.sql("SELECT count(*) AS n FROM events WHERE event_source = 'kms.amazonaws.com'")[0]["n"]
            .as_i64()
            .unwrap();
    for (operation, body, expected) in cases {
        let error = service.admin.call(operation, body.clone()).expect_err(operation);
        assert_eq!(&error, expected, "{operation} {body}");
    }
    let after = service.folder.sql("SELECT count(*) AS n FROM events WHERE event_source = 'kms.amazonaws.com'")[0]["n"]
        .as_i64()
        .unwrap();
    assert_eq!(after - before, i64::try_from(cases.len()).unwrap(), "one event for each");
    let Service { folder, up, .. } = service;
    up.stop();
    folder.assert_verified();
}

#[test]
fn unsigned_and_wrongly_signed_requests_are_refused_and_recorded() {
    let service = Service::start();
    let (status, body) = service.unsigned("TrentService.ListKeys", "{}");
    assert_eq!(status, 400);
    assert!(body.contains("MissingAuthenticationTokenException"), "{body}");
    let endpoint = service.up.field("kms");
    let unknown = Caller::new(&endpoint, Credentials::generate().unwrap());
    assert_eq!(unknown.call("ListKeys", json!({})).unwrap_err(), "UnrecognizedClientException");
    let forged = Caller::with_secret(&endpoint, "AKIADEMO0INSIDER", "not-the-secret-of-the-insider-000");
    assert_eq!(forged.call("ListKeys", json!({})).unwrap_err(), "InvalidSignatureException");
    let elsewhere = Caller::in_region(&endpoint, service.folder.administrator(), "eu-north-1");
    assert_eq!(elsewhere.call("ListKeys", json!({})).unwrap_err(), "InvalidSignatureException");
    let rows = service
        .folder
        .sql("SELECT error_code, principal_type FROM events WHERE actor_class = 'anonymous' ORDER BY seq");
    assert_eq!(rows.len(), 4, "{rows:?}");
    service.up.stop();
}

#[test]
fn garbage_on_the_wire_does_not_end_the_service() {
    let service = Service::start();
    let big = "x".repeat(3 * 1024 * 1024);
    let (status, _) = service.unsigned("TrentService.Encrypt", &big);
    assert!((400..500).contains(&status), "{status}");
    // What nobody will complete: the sender says that nothing more comes, or the server would wait for the rest.
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"GET", b"POST / HTTP/9.9\r\n\r\n", &[0xff; 64]] {
        let mut stream = TcpStream::connect(&service.address).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let deep = "[".repeat(100_000);
    let (status, _) = service.unsigned("TrentService.Encrypt", &deep);
    assert!((400..500).contains(&status), "{status}");
    service.admin.call("ListKeys", json!({})).expect("the service goes on");
    service.up.stop();
}
