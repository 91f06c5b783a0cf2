//! Keys of services: made by their first use, used through their service only, nobody's to change.

use super::rotation::{rotations, works};
use super::via_service::{arn, call, service_key};
use super::*;

const DENIED: &str = "AccessDeniedException";
const DATA_KEY: &str = "GenerateDataKey";

/// A service with credentials for EC2, S3 and Secrets Manager, and for S3 of the other account.
async fn started(clock: Arc<dyn Clock>) -> Fixture {
    let mut fixture = Fixture::with_clock(clock).await;
    fixture.stop().await;
    let keys = [(ACCOUNT, "blocks", "ec2"), (ACCOUNT, "objects", "s3"), (ACCOUNT, "vault", "secretsmanager")];
    for (account, name, service) in keys.into_iter().chain([(OTHER, "theirs", "s3")]) {
        fixture.append_identities(&service_key(account, name, service, "Active"));
    }
    fixture.append_identities(&user(ACCOUNT, "another", "[]"));
    fixture.start().await.unwrap();
    fixture
}

/// A data key under an alias, asked for by a service for a user without policies.
async fn data_key(fixture: &Fixture, service: &str, alias: &str) -> Result<Value, String> {
    let body = json!({"KeyId": alias, "KeySpec": "AES_256"});
    call(fixture, service, (Some(&arn("powerless")), None), DATA_KEY, &body).await
}

fn made(fixture: &Fixture) -> Vec<AuditEvent> {
    let events = fixture.events().into_iter().map(|(_, event)| event);
    events.filter(|event| event.event_name == "CreateKey").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_of_a_services_alias_makes_its_key() {
    let mut fixture = started(Arc::new(SystemClock)).await;
    let admin = fixture.admin();
    let by_alias = json!({"KeyId": "alias/aws/s3"});
    // Nobody but the service brings it into being, and no service another's.
    assert_eq!(refused(&admin, "TrentService.DescribeKey", by_alias.clone()).await.0, "NotFoundException");
    for (service, alias) in
        [("objects", "alias/aws/secretsmanager"), ("blocks", "alias/aws/ec2"), ("blocks", "alias/s3")]
    {
        assert_eq!(data_key(&fixture, service, alias).await.unwrap_err(), "NotFoundException", "{service} {alias}");
    }
    // Nor does a call that is refused before it comes to the key.
    let body = json!({"KeyId": "alias/aws/s3", "KeySpec": "AES_512"});
    call(&fixture, "objects", (Some(&arn("powerless")), None), DATA_KEY, &body).await.unwrap_err();
    let quarantine = json!({"PrincipalArn": arn("powerless"), "TtlSeconds": 60});
    ok(&fixture.responder(), "KeytrailService.PutQuarantine", quarantine.clone()).await;
    assert_eq!(data_key(&fixture, "objects", "alias/aws/s3").await.unwrap_err(), DENIED);
    ok(&fixture.responder(), "KeytrailService.LiftQuarantine", quarantine).await;
    assert!(made(&fixture).is_empty());

    let first = data_key(&fixture, "objects", "alias/aws/s3").await.unwrap();
    let key = first["KeyId"].clone();
    let events = fixture.events();
    let [.., (_, creation), (_, used)] = &events[..] else { panic!("two events") };
    assert_eq!((creation.event_name.as_str(), creation.event_type.as_str()), ("CreateKey", "AwsServiceEvent"));
    assert_eq!(creation.user_identity.invoked_by.as_deref(), Some("AWS Internal"));
    assert_eq!((creation.read_only, &creation.request_id, &creation.error_code), (false, &None, &None));
    let named: Vec<_> = creation.resources.iter().map(|resource| resource.arn.as_str()).collect();
    assert_eq!(named, [key.as_str().unwrap(), &format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/aws/s3")]);
    let additional = &creation.additional_event_data;
    assert_eq!(additional.more["serviceEventDetails"], json!({"keyId": key, "aliasName": "alias/aws/s3"}));
    assert!(additional.mutation.is_some() && additional.before.is_none());
    let image = additional.after.as_ref().unwrap();
    assert_eq!((&image["keyManager"], &image["service"]), (&json!("AWS"), &json!("s3")));
    assert_eq!((&image["keyState"], &image["rotationPeriodInDays"]), (&json!("Enabled"), &json!(365)));
    assert_eq!(used.event_name, DATA_KEY);
    let through = "KeyPolicy/Allow access through s3 for all principals in the account that are authorized to use s3";
    assert_eq!(used.additional_event_data.decided_by.as_deref(), Some(through));

    let looks = async |fixture: &Fixture| {
        let admin = fixture.admin();
        let described = ok(&admin, "TrentService.DescribeKey", by_alias.clone()).await.body["KeyMetadata"].clone();
        assert_eq!((&described["Arn"], &described["KeyManager"]), (&key, &json!("AWS")));
        assert_eq!((&described["KeyState"], &described["Origin"]), (&json!("Enabled"), &json!("AWS_KMS")));
        let named = json!({"KeyId": key});
        let listed = ok(&admin, "TrentService.ListKeys", json!({})).await.body;
        assert_eq!(listed["Keys"][0]["KeyArn"], key);
        let aliases = ok(&admin, "TrentService.ListAliases", named.clone()).await.body["Aliases"].clone();
        assert_eq!((&aliases[0]["AliasName"], aliases.as_array().unwrap().len()), (&json!("alias/aws/s3"), 1));
        let policy = ok(&admin, "TrentService.GetKeyPolicy", named.clone()).await.body["Policy"].clone();
        assert_eq!(policy, additional.more["policy"]);
        let status = ok(&admin, "TrentService.GetKeyRotationStatus", named.clone()).await.body;
        assert_eq!((&status["KeyRotationEnabled"], &status["RotationPeriodInDays"]), (&json!(true), &json!(365)));
        for operation in ["ListResourceTags", "ListKeyPolicies", "ListGrants", "ListKeyRotations", "GetKeyLastUsage"] {
            ok(&admin, &format!("TrentService.{operation}"), named.clone()).await;
        }
        assert_eq!(refused(&fixture.user("powerless"), "TrentService.DescribeKey", named).await.0, DENIED);
    };
    looks(&fixture).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    looks(&fixture).await;
    let open = json!({"CiphertextBlob": first["CiphertextBlob"]});
    let opened = call(&fixture, "objects", (Some(&arn("another")), None), "Decrypt", &open).await.unwrap();
    assert_eq!(opened["Plaintext"], first["Plaintext"]);
    assert_eq!(data_key(&fixture, "objects", "alias/aws/s3").await.unwrap()["KeyId"], key);
    assert_eq!(made(&fixture).len(), 1);

    // Volumes are encrypted through EC2, and each account has keys of its own.
    let volumes = data_key(&fixture, "blocks", "alias/aws/ebs").await.unwrap();
    assert_ne!(volumes["KeyId"], key);
    let (neighbour, body) =
        (format!("arn:aws:iam::{OTHER}:user/neighbour"), json!({"KeyId": "alias/aws/s3", "KeySpec": "AES_256"}));
    let theirs = call(&fixture, "theirs", (Some(&neighbour), None), DATA_KEY, &body).await.unwrap();
    assert!(theirs["KeyId"].as_str().unwrap().starts_with(&format!("arn:aws:kms:{REGION}:{OTHER}:key/")));
    assert_eq!(made(&fixture).len(), 3);
    // Another account's alias is none to make, and tells nothing.
    let foreign = format!("arn:aws:kms:{REGION}:{OTHER}:alias/aws/secretsmanager");
    assert_eq!(data_key(&fixture, "vault", &foreign).await.unwrap_err(), DENIED);
    assert_eq!(made(&fixture).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_uses_at_the_same_time_make_one_key() {
    let fixture = started(Arc::new(SystemClock)).await;
    let use_it = || data_key(&fixture, "objects", "alias/aws/s3");
    let all = tokio::join!(use_it(), use_it(), use_it(), use_it(), use_it(), use_it(), use_it(), use_it());
    let all = [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7].map(|answer| answer.unwrap()["KeyId"].clone());
    assert!(all.iter().all(|key| key == &all[0]), "{all:?}");
    assert_eq!(made(&fixture).len(), 1);
    // The log tells of the key before any use of it.
    let names: Vec<_> = fixture.events().into_iter().map(|(_, event)| event.event_name).collect();
    let creation = names.iter().position(|name| name == "CreateKey").unwrap();
    assert!(names.iter().position(|name| name == DATA_KEY).unwrap() > creation, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_key_is_used_through_that_service_only() {
    let fixture = started(Arc::new(SystemClock)).await;
    let data_key = data_key(&fixture, "objects", "alias/aws/s3").await.unwrap();
    let key = data_key["KeyId"].clone();
    let open = json!({"CiphertextBlob": data_key["CiphertextBlob"]});
    let (powerless, another) = (arn("powerless"), arn("another"));
    for client in [fixture.admin(), fixture.client("break-glass", "break-glass"), fixture.user("powerless")] {
        let (code, seq) = refused(&client, "TrentService.Decrypt", open.clone()).await;
        let decided_by = fixture.event(seq).additional_event_data.decided_by;
        assert_eq!((code.as_str(), decided_by.as_deref()), (DENIED, Some("ServiceKey")));
        let body = json!({"KeyId": "alias/aws/s3", "Plaintext": "eA=="});
        assert_eq!(refused(&client, "TrentService.Encrypt", body).await.0, DENIED);
    }
    for service in ["vault", "blocks"] {
        let answer = call(&fixture, service, (Some(&powerless), None), "Decrypt", &open).await;
        assert_eq!(answer.unwrap_err(), DENIED, "{service}");
    }
    // A customer's key is not to be a way out: the service may move a ciphertext there, the user may not.
    let own = create_key(&fixture.admin()).await;
    let body = json!({"CiphertextBlob": data_key["CiphertextBlob"], "DestinationKeyId": own});
    assert_eq!(refused(&fixture.admin(), "TrentService.ReEncrypt", body).await.0, DENIED);
    // Nor does a grant open it to its grantee alone.
    let attach = json!({"KeyId": key, "GranteePrincipal": another, "Operations": ["Decrypt"]});
    assert_eq!(refused(&fixture.admin(), "TrentService.CreateGrant", attach.clone()).await.0, DENIED);
    let grant = call(&fixture, "objects", (Some(&powerless), None), "CreateGrant", &attach).await.unwrap();
    assert_eq!(refused(&fixture.user("another"), "TrentService.Decrypt", open.clone()).await.0, DENIED);
    call(&fixture, "objects", (Some(&another), None), "Decrypt", &open).await.unwrap();
    let body = json!({"KeyId": key, "GrantId": grant["GrantId"]});
    ok(&fixture.admin(), "TrentService.RevokeGrant", body).await;
    // In another account the same service is nobody, also by grant.
    let neighbour = format!("arn:aws:iam::{OTHER}:user/neighbour");
    let abroad = json!({"KeyId": key, "GranteePrincipal": neighbour, "Operations": ["Decrypt"]});
    call(&fixture, "objects", (Some(&powerless), None), "CreateGrant", &abroad).await.unwrap();
    assert_eq!(call(&fixture, "theirs", (Some(&neighbour), None), "Decrypt", &open).await.unwrap_err(), DENIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_a_services_key() {
    let fixture = started(Arc::new(SystemClock)).await;
    let key = data_key(&fixture, "objects", "alias/aws/s3").await.unwrap()["KeyId"].clone();
    let own = create_key(&fixture.admin()).await;
    ok(&fixture.admin(), "TrentService.CreateAlias", json!({"AliasName": "alias/own", "TargetKeyId": own})).await;
    let named = json!({"KeyId": key});
    let created = made(&fixture).remove(0);
    let sha256 = created.additional_event_data.after.unwrap()["policySha256"].clone();
    let tags = json!([{"TagKey": "a", "TagValue": "b"}]);
    let reserved = "NotAuthorizedException";
    for client in [fixture.admin(), fixture.client("break-glass", "break-glass")] {
        for (operation, body, code) in [
            ("PutKeyPolicy", json!({"KeyId": key, "Policy": crate::policy::default_key_policy(ACCOUNT)}), DENIED),
            ("DisableKey", named.clone(), DENIED),
            ("EnableKey", named.clone(), DENIED),
            ("ScheduleKeyDeletion", named.clone(), DENIED),
            ("CancelKeyDeletion", named.clone(), DENIED),
            ("EnableKeyRotation", named.clone(), DENIED),
            ("DisableKeyRotation", named.clone(), DENIED),
            ("RotateKeyOnDemand", named.clone(), DENIED),
            ("TagResource", json!({"KeyId": key, "Tags": tags}), DENIED),
            ("UntagResource", json!({"KeyId": key, "TagKeys": ["a"]}), DENIED),
            ("UpdateKeyDescription", json!({"KeyId": key, "Description": "mine"}), DENIED),
            ("CreateAlias", json!({"AliasName": "alias/mine", "TargetKeyId": key}), DENIED),
            ("UpdateAlias", json!({"AliasName": "alias/own", "TargetKeyId": key}), DENIED),
            ("CreateAlias", json!({"AliasName": "alias/aws/sqs", "TargetKeyId": own}), reserved),
            ("UpdateAlias", json!({"AliasName": "alias/aws/s3", "TargetKeyId": own}), reserved),
            ("DeleteAlias", json!({"AliasName": "alias/aws/s3"}), reserved),
        ] {
            let (found, seq) = refused(&client, &format!("TrentService.{operation}"), body).await;
            assert_eq!(found, code, "{operation}");
            let event = fixture.event(seq);
            assert!(!event.read_only && event.additional_event_data.after.is_none(), "{operation}");
        }
    }
    // The responder's list stands above policies, not above this.
    let responder = fixture.responder();
    let restore = json!({"KeyId": key, "CurrentPolicySha256": sha256, "WantedEventId": created.event_id});
    for (target, body) in [
        ("TrentService.DisableKey", &named),
        ("TrentService.EnableKey", &named),
        ("TrentService.CancelKeyDeletion", &named),
        ("KeytrailService.RestoreKeyPolicy", &restore),
    ] {
        for _ in 0..2 {
            let answer = responder.call(target, body.clone(), Some(&target.replace('.', "-"))).await;
            assert_eq!(answer.unwrap_err().code(), Some(DENIED), "{target}");
        }
    }
    for operation in ["DescribeKey", "GetKeyPolicy"] {
        ok(&responder, &format!("TrentService.{operation}"), named.clone()).await;
    }
    let described = ok(&fixture.admin(), "TrentService.DescribeKey", named).await.body["KeyMetadata"].clone();
    assert_eq!((&described["KeyState"], &described["KeyManager"]), (&json!("Enabled"), &json!("AWS")));
    data_key(&fixture, "objects", "alias/aws/s3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_key_rotates_every_year() {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let mut fixture = started(Arc::<FakeClock>::clone(&clock)).await;
    let data_key = data_key(&fixture, "objects", "alias/aws/s3").await.unwrap();
    let named = json!({"KeyId": data_key["KeyId"]});
    let first = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"]["CurrentKeyMaterialId"].clone();
    clock.advance(Duration::from_secs(364 * 86_400));
    assert_eq!(rotations(&fixture).await, 0);
    fixture.stop().await;
    fixture.start().await.unwrap();
    clock.advance(Duration::from_secs(86_401));
    rotations(&fixture).await;
    wait_until(|| fixture.events().iter().any(|(_, event)| event.event_name == "RotateKey")).await;
    let second = works(&fixture, "DescribeKey", named.clone()).await["KeyMetadata"]["CurrentKeyMaterialId"].clone();
    assert_ne!(first, second);
    let listed = works(&fixture, "ListKeyRotations", named).await["Rotations"].clone();
    assert_eq!((&listed[0]["KeyMaterialId"], &listed[0]["RotationType"]), (&second, &json!("AUTOMATIC")));
    let open = json!({"CiphertextBlob": data_key["CiphertextBlob"]});
    let opened = call(&fixture, "objects", (Some(&arn("powerless")), None), "Decrypt", &open).await.unwrap();
    assert_eq!((&opened["Plaintext"], &opened["KeyMaterialId"]), (&data_key["Plaintext"], &first));
}
