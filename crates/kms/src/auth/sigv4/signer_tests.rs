//! Properties against AWS's own signer, crate `aws-sigv4`: whatever it signs for a service like KMS is accepted, and not
//! once a byte of a signed part is another.
//!
//! Where its answer is not ours: a query whose escapes are not UTF-8 has its bytes replaced by U+FFFD there before they are
//! signed, while AWS's manual encodes bytes; such queries are not generated. It refuses header values beyond ASCII itself.
#![allow(clippy::unwrap_used)]

use super::{AuthError, RequestParts, SecretKey, Verified, Verifier};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings};
use aws_sigv4::sign::v4;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::time::{Duration, SystemTime};

const ACCESS_KEY_ID: &str = "AKIDEXAMPLE12345";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2026-01-05T12:00:00Z.
const NOON_SECS: u64 = 1_767_614_400;

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    /// The request with the headers that AWS's signer adds.
    fn signed(mut self, token: Option<&str>, at_secs: u64) -> Self {
        let identity = Credentials::new(ACCESS_KEY_ID, SECRET, token.map(str::to_owned), None, "test").into();
        let params: SigningParams<'_> = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-central-1")
            .name("kms")
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(at_secs))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let mark = if self.query.is_empty() { "" } else { "?" };
        let uri = format!("https://localhost:8443{}{mark}{}", self.path, self.query);
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap())).collect();
        let body = SignableBody::Bytes(&self.body);
        let request = SignableRequest::new(&self.method, uri, headers.into_iter(), body).unwrap();
        let (instructions, _) = aws_sigv4::http_request::sign(request, &params).unwrap().into_parts();
        self.headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.into())));
        self
    }

    fn verify(&self) -> Result<Verified, AuthError> {
        let secret = SecretKey::new(SECRET.into()).unwrap();
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let Self { method, path, query, body, .. } = self;
        let parts = RequestParts { method, path, query, headers: &headers, body };
        let verifier = Verifier::new(["eu-central-1"], &["kms"]);
        verifier.verify(&parts, NOON_SECS * 1_000_000, |id, _| (id == ACCESS_KEY_ID).then_some(&secret))
    }
}

/// Paths as clients write them, and as nobody should.
fn path() -> impl Strategy<Value = String> {
    let fixed = &["", ".", "..", "...", "%2e%2E", "%2F", "a%20b", "~", "a:b@c!$&'()*+,;=", "%", "%zz", "\u{e9}"];
    let segment = prop_oneof![
        4 => select(&fixed[..]).prop_map(str::to_owned),
        2 => "[A-Za-z0-9._~-]{1,6}",
        2 => "\\PC{1,4}".prop_map(|text| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string()),
    ];
    proptest::collection::vec(segment, 0..6).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// Pairs in any order, some without a value, a name or anything.
fn query() -> impl Strategy<Value = String> {
    let text = || {
        prop_oneof![
            "[A-Za-z0-9._~/?:@!$'()*,;+-]{0,6}",
            "\\PC{0,4}".prop_map(|text| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string()),
            "(%[0-7][0-9a-fA-F]){1,3}",
        ]
    };
    let pair = prop_oneof![
        4 => (text(), text()).prop_map(|(name, value)| format!("{name}={value}")),
        1 => text(),
        1 => Just(String::new()),
    ];
    proptest::collection::vec(pair, 0..5).prop_map(|pairs| pairs.join("&"))
}

/// Free headers, some repeated, with blanks around and inside of their values.
fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = select(&["x-a", "x-b", "x-amz-meta", "content-type", "my-header1"][..]);
    let free = (name, "[ \t]{0,3}([!-~]{1,5}[ \t]{1,3}){0,3}[!-~]{0,5} {0,2}");
    let free = free.prop_map(|(name, value)| (name.to_owned(), value.into_bytes()));
    proptest::collection::vec(free, 0..6).prop_map(|free| {
        // As an HTTP server hands them over, which has cut the blanks around a value: RFC 9110, section 5.5.
        let cut = |(name, value): (String, Vec<u8>)| (name, String::from_utf8(value).unwrap().trim().into());
        let fixed = [("host", "localhost:8443"), ("x-amz-target", "TrentService.ListKeys")];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        fixed.into_iter().chain(free.into_iter().map(cut)).collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let method = select(&["POST", "GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "QUERY"][..]);
    let body =
        prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..80), "\\PC{0,20}".prop_map(Into::into)];
    (method, path(), query(), headers(), body).prop_map(|(method, path, query, headers, body)| Request {
        method: method.to_owned(),
        path,
        query,
        headers,
        body,
    })
}

/// Another byte in the place of one that `counts`; false when there is none.
fn change(bytes: &mut [u8], at: Index, counts: impl Fn(u8) -> bool) -> bool {
    let mut counting: Vec<&mut u8> = bytes.iter_mut().filter(|byte| counts(**byte)).collect();
    let length = counting.len();
    if length == 0 {
        return false;
    }
    counting.get_mut(at.index(length)).map(|byte| **byte ^= 1).is_some()
}

fn change_text(text: &mut String, at: Index) -> bool {
    // Separators and the like may come and go without a change of meaning.
    let mut bytes = std::mem::take(text).into_bytes();
    let changed = change(&mut bytes, at, |byte| byte.is_ascii_alphanumeric());
    *text = String::from_utf8(bytes).unwrap();
    changed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_the_signer_of_aws_signs_is_accepted(
        request in request(),
        token in proptest::option::of("[A-Za-z0-9+/=]{16,200}"),
        at_secs in NOON_SECS - 300..=NOON_SECS + 300,
    ) {
        let signed = request.signed(token.as_deref(), at_secs);
        let verified = signed.verify();
        prop_assert!(verified.is_ok(), "{signed:?}: {verified:?}");
        prop_assert_eq!(verified.unwrap().is_signed("x-amz-security-token"), token.is_some());
    }

    #[test]
    fn one_byte_of_a_signed_part_and_it_is_refused(
        request in request(),
        token in proptest::option::of("[A-Za-z0-9+/=]{16,200}"),
        part in 0..5,
        at in any::<Index>(),
    ) {
        let mut bad = request.signed(token.as_deref(), NOON_SECS);
        prop_assert!(bad.verify().is_ok());
        let changed = match part {
            0 => change_text(&mut bad.method, at),
            // A segment that `..` takes back may be any.
            1 => !bad.path.contains("..") && change_text(&mut bad.path, at),
            2 => change_text(&mut bad.query, at),
            3 => change(&mut bad.body, at, |_| true),
            _ => {
                let header = at.index(bad.headers.len());
                bad.headers.get_mut(header).is_some_and(|(_, value)| change(value, at, |_| true))
            }
        };
        prop_assume!(changed);
        prop_assert!(bad.verify().is_err(), "{bad:?}");
    }
}
