//! Requests: their signature, and their bodies in both protocols.

use super::REGION;
use crate::api::query as forms;
use crate::auth::credentials::{Credentials, SecretKey};
use crate::auth::sigv4::{RequestParts, Verifier, claimed_access_key_id, claimed_service};
use crate::ops::typed;

/// Noon of the day on which all seeds are signed.
pub(super) const NOW_US: u64 = 1_767_614_400_000_000;
/// The one access key there is.
pub(super) const ACCESS_KEY_ID: &str = "AKIAFUZZFUZZFUZZFUZZ";

/// The credentials that seeds are signed with.
pub(super) fn credentials() -> Credentials {
    let secret =
        SecretKey::new("not-a-secret-but-the-key-of-the-fuzz-targets".to_owned()).expect("it is of the right form");
    Credentials::new(ACCESS_KEY_ID, secret).expect("they are of the right form")
}

/// A request as lines: method, path and query, headers, an empty line, the body.
///
/// Whatever is accepted must be refused with any other secret, body or signed header.
pub fn signature(data: &[u8]) -> bool {
    let Some((method, path, query, headers, body)) = split(data) else { return false };
    let parts = RequestParts { method, path, query, headers: &headers, body };
    let (_, _) = (claimed_access_key_id(&parts), claimed_service(&headers));
    let credentials = credentials();
    let verify = |parts: &RequestParts<'_>, secret: &SecretKey| {
        let verifier = Verifier::new([REGION], &["kms", "sts", "iam"]);
        verifier.verify(parts, NOW_US, |id, _| (id == ACCESS_KEY_ID).then_some(secret))
    };
    let Ok(verified) = verify(&parts, &credentials.secret) else { return false };
    assert_eq!(verified.access_key_id, ACCESS_KEY_ID);
    let other =
        SecretKey::new("another-secret-that-nobody-has-signed-with".to_owned()).expect("it is of the right form");
    assert!(verify(&parts, &other).is_err(), "another secret");
    let longer = [body, b"x"].concat();
    assert!(verify(&RequestParts { body: &longer, ..parts }, &credentials.secret).is_err(), "another body");
    assert!(verify(&RequestParts { method: "PATCH", ..parts }, &credentials.secret).is_err() || method == "PATCH");
    for name in &verified.signed_headers {
        let mut changed = headers.clone();
        let at = changed.iter().position(|(other, _)| other == name).expect("a signed header is there");
        changed[at].1 = b"changed";
        let changed = RequestParts { headers: &changed, ..parts };
        assert!(verify(&changed, &credentials.secret).is_err() || headers[at].1 == b"changed", "another {name}");
    }
    true
}

type Split<'a> = (&'a str, &'a str, &'a str, Vec<(&'a str, &'a [u8])>, &'a [u8]);

fn split(data: &[u8]) -> Option<Split<'_>> {
    let (mut rest, mut headers) = (data, Vec::new());
    let mut line = || {
        let at = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, tail) = (rest.get(..at)?, rest.get(at + 1..)?);
        rest = tail;
        Some(line)
    };
    let first = std::str::from_utf8(line()?).ok()?;
    let (method, target) = first.split_once(' ')?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    while let Some(header) = line().filter(|header| !header.is_empty()) {
        let at = header.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(header.get(..at)?).ok()?;
        // What the HTTP library lets through: one case, no blanks.
        if !name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()) {
            return None;
        }
        headers.push((name, header.get(at + 1..)?));
    }
    Some((method, path, query, headers, rest))
}

/// A JSON body, read as the input of each operation in turn; what it records for the log must be JSON of a bounded size.
pub fn body(data: &[u8]) -> bool {
    let mut accepted = false;
    for parameters in typed::json(data).into_iter().flatten() {
        accepted = true;
        let text = serde_json::to_string(&parameters).expect("what is recorded is JSON");
        // A control character takes six bytes, wherever it came from.
        assert!(text.len() <= 6 * data.len() + 1_024, "recorded {} of {} bytes", text.len(), data.len());
    }
    accepted
}

/// A form of the query protocol, read as the input of each operation, and written into an answer.
pub fn form(data: &[u8]) -> bool {
    let mut accepted = false;
    let name = forms::operation(data);
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    for service in [forms::STS, forms::IAM] {
        let Ok(json) = forms::json(service, data) else { continue };
        let value: serde_json::Value = serde_json::from_slice(&json).expect("a form becomes JSON");
        assert!(value.is_object());
        accepted |= typed::form(&json) > 0;
        let text = serde_json::json!({"Text": String::from_utf8_lossy(data)}).to_string();
        let xml = forms::success(service, text.as_bytes(), name, "id");
        let xml = std::str::from_utf8(&xml).expect("an answer is text");
        let inside = xml.split("<Text>").nth(1).and_then(|rest| rest.split("</Text>").next());
        let inside = inside.expect("the text is in its element");
        let bad = |c: char| c == '<' || c == '>' || (c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
        assert!(!inside.contains(bad), "a text stays in its element");
    }
    accepted
}
