//! AWS's signature test suite against our verifier. `suite.jsonl` holds its 38 cases as facts: the signed request of each,
//! folded header lines joined, and whether it is one for us.
//!
//! Not accepted, by intent: paths signed as they are written, which is S3's way alone, and a session token outside the
//! signature. Source: github.com/awslabs/aws-c-auth, tests/aws-signing-test-suite/v4.
#![allow(clippy::unwrap_used)]

use super::{RequestParts, SecretKey, Verifier};
use serde::Deserialize;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z.
const NOW_US: u64 = 1_440_938_160_000_000;

#[derive(Deserialize)]
struct Case {
    name: String,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
    accepted: bool,
}

#[test]
fn each_case_of_the_suite_is_accepted_if_it_is_one_for_us_and_not_with_another_body() {
    let cases: Vec<Case> =
        include_str!("suite.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((cases.len(), cases.iter().filter(|case| case.accepted).count()), (38, 31));
    let secret = SecretKey::new(SECRET.into()).unwrap();
    for case in &cases {
        let headers: Vec<(&str, &[u8])> =
            case.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let verify = |body: &[u8]| {
            let parts =
                RequestParts { method: &case.method, path: &case.path, query: &case.query, headers: &headers, body };
            let verifier = Verifier::new(["us-east-1"], &["service"]);
            verifier.verify(&parts, NOW_US, |id, _| (id == "AKIDEXAMPLE").then_some(&secret))
        };
        assert_eq!(verify(case.body.as_bytes()).is_ok(), case.accepted, "{}: {:?}", case.name, verify(b"").err());
        assert!(verify(format!("{}!", case.body).as_bytes()).is_err(), "{}", case.name);
    }
}
