//! Questions about the past, asked of the log of a real node: replay of another policy, who can, generating a policy.

use super::grants::arn;
use super::*;
use crate::past::tests::{Texts, replay};
use crate::past::{Change, Past, Replacement, Replayed, Right, Usage};
use crate::policy::Flavor;
use crate::policy::lint::lint;

/// An application that may use keys by its identity policy, an auditor who may look, somebody of another account.
async fn used() -> (Fixture, String) {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let policy = r#"["{\"Version\":\"2012-10-17\",\"Statement\":[{\"Sid\":\"Use\",\"Effect\":\"Allow\",\"Action\":[\"kms:Encrypt\",\"kms:Decrypt\",\"kms:Sign\"],\"Resource\":\"*\"}]}"]"#;
    fixture.append_identities(&user(ACCOUNT, "application", policy));
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let app = fixture.user("application");
    for tenant in ["7", "8"] {
        let context = json!({"purpose": "orders", "tenant": tenant});
        let blob = encrypt(&app, &key, b"x", context.clone()).await;
        ok(&app, "TrentService.Decrypt", json!({"CiphertextBlob": blob, "EncryptionContext": context})).await;
    }
    refused(&app, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    refused(&fixture.user("powerless"), "TrentService.Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})).await;
    let grantee = arn(OTHER, "neighbour");
    let operations = json!(["Encrypt", "DescribeKey"]);
    let constraints = json!({"EncryptionContextSubset": {"tenant": "9"}});
    let granted =
        json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations, "Constraints": constraints});
    ok(&admin, "TrentService.CreateGrant", granted).await;
    encrypt(&fixture.user("neighbour"), &key, b"x", json!({"tenant": "9"})).await;
    ok(&admin, "TrentService.CreateAlias", json!({"AliasName": "alias/orders", "TargetKeyId": key})).await;
    (fixture, key)
}

fn try_key(fixture: &Fixture, key: &str, statements: &Value) -> Replayed {
    let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    replay(&fixture.events(), Replacement::key(key, &text).unwrap())
}

fn found<'r>(replayed: &'r Replayed, change: Change, operation: &str) -> Vec<(&'r str, u64)> {
    let all = replayed.groups.iter().filter(|group| group.change == change && group.operation == operation);
    all.map(|group| (group.principal.as_str(), group.calls)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_policy_is_tried_on_the_calls_that_were_made() {
    let (fixture, key) = used().await;
    let root = json!({"AWS": format!("arn:aws:iam::{ACCOUNT}:root")});
    // AWS's default policy is what was in force.
    let same =
        try_key(&fixture, &key, &json!([{"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}]));
    assert_eq!((same.denied, same.allowed, same.untold, same.groups.len()), (0, 0, 0, 0), "{same:?}");
    assert!(same.calls >= 9, "{}", same.calls);

    let narrowed = json!([
        {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*",
            "Condition": {"StringEqualsIfExists": {"kms:EncryptionContext:tenant": "7"}}},
        {"Sid": "Look", "Effect": "Allow", "Principal": {"AWS": arn(ACCOUNT, "application")}, "Action": "kms:DescribeKey", "Resource": "*"}
    ]);
    let narrowed = try_key(&fixture, &key, &narrowed);
    let app = arn(ACCOUNT, "application");
    assert_eq!(found(&narrowed, Change::Denied, "Encrypt"), [(app.as_str(), 1)], "{narrowed:?}");
    assert_eq!(found(&narrowed, Change::Denied, "Decrypt"), [(app.as_str(), 1)]);
    assert_eq!(found(&narrowed, Change::Allowed, "DescribeKey"), [(app.as_str(), 1)]);
    // A grant's constraint is the context of the call that makes it.
    assert_eq!(found(&narrowed, Change::Denied, "CreateGrant"), [(arn(ACCOUNT, "administrator").as_str(), 1)]);
    // The grant itself speaks where the policy is silent; powerless is refused either way.
    assert_eq!((narrowed.denied, narrowed.allowed, narrowed.untold), (3, 1, 0));
    let group = narrowed.groups.iter().find(|group| group.operation == "DescribeKey").unwrap();
    assert_eq!((group.was.as_str(), group.would.as_str()), ("Default", "KeyPolicy/Look"));
    let asked = group.request_id.as_deref().unwrap();
    assert!(fixture.events().iter().any(|(_, event)| event.request_id.as_deref() == Some(asked)));

    let closed = json!([{"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*"}]);
    let closed = try_key(&fixture, &key, &closed);
    let neighbour = arn(OTHER, "neighbour");
    assert!(
        found(&closed, Change::Denied, "Encrypt").contains(&(neighbour.as_str(), 1)),
        "a Deny stands above a grant"
    );
    let over_tls = json!([
        {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    ]);
    assert_eq!(try_key(&fixture, &key, &over_tls).denied, same.calls - 2, "none of the calls came over TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_identity_policy_is_tried_in_place_of_a_users_own() {
    let (fixture, key) = used().await;
    let policy = |action: &str| {
        let statement = json!({"Effect": "Allow", "Action": action, "Resource": key});
        json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
    };
    let app = arn(ACCOUNT, "application");
    let events = fixture.events();
    let tried = replay(&events, Replacement::identity(&app, &policy("kms:D*")).unwrap());
    assert_eq!(found(&tried, Change::Denied, "Encrypt"), [(app.as_str(), 2)], "{tried:?}");
    assert_eq!(found(&tried, Change::Allowed, "DescribeKey"), [(app.as_str(), 1)]);
    assert_eq!((tried.denied, tried.allowed, tried.untold, tried.calls), (2, 1, 0, 5), "nobody else is concerned");
    assert!(Replacement::identity("arn:aws:iam::1:group/g", &policy("kms:D*")).is_err());
    assert!(Replacement::identity(&app, "{}").is_err());
}

fn rights(fixture: &Fixture, action: &str, key: &str) -> Vec<Right> {
    let mut past = Past::new(Replacement::default());
    for (leaf, event) in fixture.events() {
        past.take(&Texts::of(&leaf, &event).row());
    }
    let now_us = fixture.clock.now_us();
    assert_eq!(past.keys_named("alias/orders"), [key]);
    past.who_can(&[action.to_owned()], key, now_us)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_do_something_is_told_with_what_it_takes() {
    let (fixture, key) = used().await;
    let principals = |action: &str| -> Vec<String> {
        rights(&fixture, action, &key).into_iter().map(|right| right.principal).collect()
    };
    let fixed = |name: &str| format!("arn:aws:iam::{ACCOUNT}:keytrail/{name}");
    let mut encrypting = principals("kms:Encrypt");
    encrypting.sort();
    let mut want = vec![
        format!("arn:aws:iam::{ACCOUNT}:root"),
        arn(ACCOUNT, "administrator"),
        arn(ACCOUNT, "application"),
        arn(OTHER, "neighbour"),
        fixed("break-glass"),
    ];
    want.sort();
    assert_eq!(encrypting, want);
    assert!(principals("kms:DisableKey").contains(&fixed("responder")));
    assert!(!principals("kms:Decrypt").contains(&arn(OTHER, "neighbour")));

    let by_grant = rights(&fixture, "kms:Encrypt", &key);
    let by_grant = by_grant.iter().find(|right| right.principal == arn(OTHER, "neighbour")).unwrap();
    assert!(by_grant.survey.ways[0].through[0].starts_with("Grant/"), "{by_grant:?}");
    assert_eq!(by_grant.survey.ways[0].conditions, [r#"grant constraint encryptionContextSubset {"tenant":"9"}"#]);

    let statements = json!([
        {"Sid": "Own", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Partner", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::999988887777:role/partner"}, "Action": "kms:Decrypt",
            "Resource": "*", "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": "3"}}},
        {"Sid": "Anyone", "Effect": "Allow", "Principal": "*", "Action": "kms:Verify", "Resource": "*"},
        {"Sid": "Inside", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",
            "Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    ]);
    let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    ok(&fixture.admin(), "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).await;
    let decrypting = rights(&fixture, "kms:Decrypt", &key);
    let partner = decrypting.iter().find(|right| right.principal.ends_with("role/partner")).unwrap();
    assert!(partner.unknown);
    assert_eq!(partner.survey.ways[0].through[0], "KeyPolicy/Partner");
    assert_eq!(partner.survey.ways[0].conditions, ["StringEquals kms:EncryptionContext:tenant 3"]);
    assert_eq!(partner.survey.unless[0].through, ["KeyPolicy/Inside"]);
    let app = decrypting.iter().find(|right| right.principal == arn(ACCOUNT, "application")).unwrap();
    assert_eq!(app.survey.ways[0].through, ["KeyPolicy/Own", "IdentityPolicy/application#0/Use"]);
    assert!(app.survey.ways[0].conditions.is_empty());
    assert!(principals("kms:Verify").contains(&"*".to_owned()));
    assert!(!principals("kms:Verify").contains(&arn(OTHER, "powerless")));
}

fn usage(fixture: &Fixture, mut usage: Usage) -> Usage {
    for (leaf, event) in fixture.events() {
        usage.take(&Texts::of(&leaf, &event).row());
    }
    usage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_policy_allows_what_was_done_and_no_more() {
    let (fixture, key) = used().await;
    let learnt = usage(&fixture, Usage::of_key(&key, 0..u64::MAX));
    assert_eq!(learnt.by_grant(), 1);
    let policy = learnt.policy(true).unwrap();
    let json: Value = serde_json::from_str(&policy).unwrap();
    let of_app = json["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["Principal"]["AWS"] == arn(ACCOUNT, "application").as_str());
    let of_app = of_app.unwrap();
    assert_eq!(of_app["Action"], json!(["kms:Decrypt", "kms:Encrypt"]), "not Sign, which was never used");
    assert_eq!(of_app["Condition"]["StringEquals"], json!({"kms:EncryptionContext:purpose": "orders"}));
    assert_eq!(of_app["Condition"]["ForAnyValue:StringEquals"], json!({"kms:EncryptionContextKeys": ["tenant"]}));
    let tried = replay(&fixture.events(), Replacement::key(&key, &policy).unwrap());
    assert_eq!((tried.denied, tried.allowed, tried.untold), (0, 0, 0), "{policy}\n{tried:#?}");
    let findings = lint(&policy, Flavor::KeyPolicy, ACCOUNT).unwrap();
    assert!(findings.is_empty(), "{policy}\n{findings:#?}");

    let app = arn(ACCOUNT, "application");
    let policy = usage(&fixture, Usage::of_identity(&app, 0..u64::MAX).unwrap()).policy(true).unwrap();
    let tried = replay(&fixture.events(), Replacement::identity(&app, &policy).unwrap());
    assert_eq!((tried.denied, tried.allowed, tried.untold), (0, 0, 0), "{policy}");
    assert!(policy.contains(&key) && !policy.contains("kms:Sign"), "{policy}");
    assert!(lint(&policy, Flavor::IdentityPolicy, ACCOUNT).unwrap().is_empty(), "{policy}");
    assert!(Usage::of_key("arn:aws:kms:eu-central-1:123456789012:key/none", 0..u64::MAX).policy(true).is_err());
    assert!(Usage::of_identity("arn:aws:iam::123456789012:group/g", 0..1).is_err());
}

/// An identity policy of one statement, as identities.toml has it in place.
fn own(actions: &Value, resource: &str, more: &Value) -> String {
    let mut statement = json!({"Sid": "Own", "Effect": "Allow", "Action": actions, "Resource": resource});
    if !more.is_null() {
        statement["Condition"] = more.clone();
    }
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    json!([policy]).to_string()
}

/// Each finding on documents together has a user that it is about and one, a little different, that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_all_documents_together_allow_is_found() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let role = |name: &str| format!("arn:aws:iam::{ACCOUNT}:role/{name}");
    let no_more = json!(null);
    let with_mfa = json!({"Bool": {"aws:MultiFactorAuthPresent": "true"}});
    let keys = own(&json!(["kms:*"]), "*", &no_more);
    let people = [
        ("climbertokeys", own(&json!(["sts:AssumeRole"]), &role("climbed-to"), &no_more)),
        ("climberwithcode", own(&json!(["sts:AssumeRole"]), &role("climbed-to"), &with_mfa)),
        ("writerofitself", own(&json!(["iam:PutUserPolicy"]), &arn(ACCOUNT, "writerofitself"), &no_more)),
        ("writerofothers", own(&json!(["iam:PutUserPolicy"]), &arn(ACCOUNT, "nobodythere"), &no_more)),
        ("writeroftrust", own(&json!(["iam:UpdateAssumeRolePolicy"]), &role("climbed-to"), &no_more)),
        ("keeperanduser", own(&json!(["kms:DisableKey"]), "*", &no_more)),
        ("keeperofkeysonly", own(&json!(["kms:DisableKey"]), "*", &no_more)),
    ];
    for (name, policies) in &people {
        fixture.append_identities(&user(ACCOUNT, name, policies));
    }
    let trust = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}}});
    fixture.append_identities(&format!(
        "[[role]]\naccount = \"{ACCOUNT}\"\nname = \"climbed-to\"\npolicies = {keys}\ntrust = '''{trust}'''\n"
    ));
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let statements = json!([
        {"Sid": "Own", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": arn(ACCOUNT, "keeperanduser")}, "Action": "kms:Decrypt", "Resource": "*"}
    ]);
    let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    ok(&admin, "TrentService.PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).await;
    let wide =
        json!({"KeyId": key, "GranteePrincipal": arn(OTHER, "neighbour"), "Operations": ["Decrypt", "CreateGrant"]});
    ok(&admin, "TrentService.CreateGrant", wide).await;

    let mut past = Past::new(Replacement::default());
    for (leaf, event) in fixture.events() {
        past.take(&Texts::of(&leaf, &event).row());
    }
    let found = past.lint(fixture.clock.now_us()).unwrap();
    let of = |name: &str, code: &str| -> Vec<String> {
        let of_name = found.iter().filter(|(of, _)| of == name).flat_map(|(_, findings)| findings);
        of_name.filter(|finding| finding.code == code).map(|finding| finding.message.clone()).collect()
    };
    let together = |code: &str| -> Vec<&str> {
        let all = found.iter().filter(|(_, findings)| findings.iter().any(|finding| finding.code == code));
        all.map(|(name, _)| name.as_str()).collect()
    };
    let named = |names: &[&str]| -> Vec<String> { names.iter().map(|name| arn(ACCOUNT, name)).collect() };
    assert_eq!(together("reaches-decrypt"), named(&["climbertokeys", "writerofitself", "writeroftrust"]), "{found:#?}");
    assert_eq!(together("administers-and-uses-across"), named(&["keeperanduser"]));
    let climbs = &of(&arn(ACCOUNT, "climbertokeys"), "reaches-decrypt")[0];
    let first = format!("sts:AssumeRole on {} by IdentityPolicy/climbertokeys#0/Own", role("climbed-to"));
    let last = format!("then kms:Decrypt on {key} by IdentityPolicy/climbed-to#0/Own");
    assert!(climbs.contains(&first) && climbs.contains(&last), "{climbs}");

    let on_key = format!("grants on {key}");
    for code in ["grant-unconstrained", "grant-makes-grants", "grant-outside", "grant-never-retired"] {
        assert_eq!(of(&on_key, code).len(), 1, "{code}");
    }
    assert!(!of(&format!("{} climbed-to#0", role("climbed-to")), "all-actions").is_empty(), "{found:#?}");
}
