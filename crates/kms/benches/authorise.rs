//! How long one decision takes: 20 statements that do not fit, then ten grants of which the last does. The budget is
//! 20 microseconds, of the some 100 that a call takes beside its wait for the disk.
//!
//! `cargo bench -p keytrail-kms --features testing --bench authorise`; results are kept in benches/RESULTS.md.

#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use keytrail_kms::policy::{
    CallerPolicies, Context, Document, Flavor, GrantConstraints, GrantOperations, GrantTerms, GrantsOnKey,
    PrincipalContext, Request, evaluate_with_grants,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::hint::black_box;

const GRANTEE: &str = "arn:aws:iam::111122223333:user/app";

struct Ten(Vec<GrantTerms>);

impl GrantsOnKey for Ten {
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        let at = (grantee == GRANTEE).then(|| self.0.iter().position(fits)).flatten();
        at.map(|at| at.to_string())
    }
}

fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn key_policy() -> Document {
    let statements: Vec<_> = (0..20)
        .map(|index| {
            json!({
                "Sid": format!("s{index}"), "Effect": if index % 4 == 0 { "Deny" } else { "Allow" },
                "Principal": {"AWS": [GRANTEE, "arn:aws:iam::111122223333:user/other"]},
                "Action": ["kms:Encrypt", "kms:Dec*", "kms:GenerateDataKey*"], "Resource": "arn:aws:kms:*:111122223333:key/*",
                "Condition": {
                    "StringEquals": {"kms:EncryptionContext:tenant": format!("tenant-{index}")},
                    "IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "203.0.113.0/24"]},
                },
            })
        })
        .collect();
    Document::parse(&json!({"Version": "2012-10-17", "Statement": statements}).to_string(), Flavor::KeyPolicy).unwrap()
}

fn twenty_statements_and_ten_grants(bench: &mut Criterion) {
    let policy = key_policy();
    let grants = Ten((0..10)
        .map(|index| GrantTerms {
            operations: GrantOperations::parse(["Decrypt", "DescribeKey"]).unwrap(),
            constraints: GrantConstraints {
                encryption_context_subset: Some(pairs(&[("tenant", if index == 9 { "mine" } else { "other" })])),
                ..GrantConstraints::default()
            },
        })
        .collect());
    let principal =
        PrincipalContext { arn: GRANTEE.into(), account: "111122223333".into(), ..PrincipalContext::default() };
    let encryption_context = pairs(&[("tenant", "mine"), ("purpose", "orders")]);
    let context = Context {
        source_ip: Some("10.1.2.3".parse().unwrap()),
        encryption_context: Some(&encryption_context),
        ..Context::default()
    };
    let request = Request {
        action: "kms:Decrypt",
        resource_arn: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        key_account: "111122223333",
        principal: &principal,
        context: &context,
    };
    let decide = || evaluate_with_grants(black_box(&request), &policy, &CallerPolicies::default(), &grants);
    assert_eq!(decide().decided_by, "Grant/9");
    bench.bench_function("authorise/20 statements, 10 grants", |bencher| bencher.iter(decide));
}

criterion_group!(benches, twenty_statements_and_ten_grants);
criterion_main!(benches);
