//! Regions of one node, and related multi-Region keys in them: what they share and what is each one's own. How they
//! change and end: related_keys.

use super::*;
use crate::ops::make_due_changes;
use crate::policy::default_key_policy;

pub(super) const US: &str = "us-east-1";
pub(super) const AP: &str = "ap-south-1";

/// A node of three regions, whose clock moves when it is told to.
pub(super) async fn node_of_regions() -> (Fixture, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
    let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
    fixture.stop().await;
    fixture.regions = [REGION, US, AP].map(str::to_owned).into();
    fixture.append_identities(&user(ACCOUNT, "maria", "[\"AdministratorAccess\"]"));
    fixture.start().await.unwrap();
    (fixture, clock)
}

/// A call signed for a region at the node's own time.
pub(super) async fn answer(
    fixture: &Fixture,
    credentials: &Credentials,
    (region, operation): (&str, &str),
    body: Value,
) -> (u16, Value) {
    let target = format!("TrentService.{operation}");
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())];
    let signed = Some((credentials, region, "kms", fixture.clock.now_us()));
    let (status, text) = raw(fixture, &headers, body.to_string().as_bytes(), signed).await;
    (status, serde_json::from_str(&text).unwrap_or_default())
}

fn admin(fixture: &Fixture) -> Credentials {
    Credentials::read(&fixture.dir().join("credentials"), "default").unwrap()
}

pub(super) async fn works(fixture: &Fixture, region: &str, operation: &str, body: Value) -> Value {
    let (status, answer) = answer(fixture, &admin(fixture), (region, operation), body.clone()).await;
    assert_eq!(status, 200, "{region} {operation} {body}: {answer}");
    answer
}

/// The exception and its text.
pub(super) async fn fails(fixture: &Fixture, region: &str, operation: &str, body: Value) -> (String, String) {
    let (status, answer) = answer(fixture, &admin(fixture), (region, operation), body.clone()).await;
    assert_eq!(status, 400, "{region} {operation} {body}: {answer}");
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    (text("__type"), text("message"))
}

pub(super) fn arn_in(region: &str, id: &str) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:key/{id}")
}

/// Lets transient states end.
pub(super) async fn settle(fixture: &Fixture, clock: &FakeClock) {
    clock.advance(Duration::from_secs(1));
    make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
}

/// A primary key in the home region; gives its id.
pub(super) async fn primary(fixture: &Fixture, body: Value) -> String {
    let mut body = body;
    body["MultiRegion"] = true.into();
    let made = works(fixture, REGION, "CreateKey", body).await;
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

/// A primary key and a replica that is ready.
pub(super) async fn related(fixture: &Fixture, clock: &FakeClock, body: Value) -> String {
    let id = primary(fixture, body).await;
    works(fixture, REGION, "ReplicateKey", json!({"KeyId": id, "ReplicaRegion": US})).await;
    settle(fixture, clock).await;
    id
}

pub(super) async fn state(fixture: &Fixture, region: &str, id: &str) -> String {
    let metadata = works(fixture, region, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
    metadata["KeyState"].as_str().unwrap().to_owned()
}

pub(super) async fn sealed(fixture: &Fixture, region: &str, id: &str, text: &str) -> Value {
    let body = json!({"KeyId": id, "Plaintext": STANDARD.encode(text), "EncryptionContext": {"a": "b"}});
    works(fixture, region, "Encrypt", body).await["CiphertextBlob"].clone()
}

pub(super) async fn opens(fixture: &Fixture, region: &str, blob: &Value, text: &str) {
    let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}});
    let opened = works(fixture, region, "Decrypt", body).await;
    assert_eq!(opened["Plaintext"], STANDARD.encode(text), "{region}");
    assert!(opened["KeyId"].as_str().unwrap().starts_with(&format!("arn:aws:kms:{region}:")), "{opened}");
}

/// Names and regions of the events from a seq on.
pub(super) fn told(fixture: &Fixture, from: usize) -> Vec<(String, String)> {
    let events = fixture.events();
    let told = events[from..].iter().map(|(_, event)| (event.event_name.clone(), event.aws_region.clone()));
    told.filter(|(name, _)| !name.starts_with("Describe")).collect()
}

pub(super) fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
    expected.map(|(name, region)| (name.to_owned(), region.to_owned())).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_neither_sees_nor_uses_what_is_in_another() {
    let (mut fixture, _clock) = node_of_regions().await;
    let (home, other) = (REGION, US);
    let made = works(&fixture, home, "CreateKey", json!({})).await["KeyMetadata"].clone();
    let (key, id) = (made["Arn"].as_str().unwrap(), made["KeyId"].as_str().unwrap());
    assert_eq!(
        (key, &made["MultiRegion"], made.get("MultiRegionConfiguration")),
        (&*arn_in(home, id), &json!(false), None)
    );
    works(&fixture, home, "CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": id})).await;
    let blob = sealed(&fixture, home, "alias/app", "x").await;
    let body = json!({"KeyId": id, "GranteePrincipal": format!("arn:aws:iam::{ACCOUNT}:user/maria"),
        "Operations": ["Decrypt"], "RetiringPrincipal": format!("arn:aws:iam::{ACCOUNT}:user/maria")});
    let token = works(&fixture, home, "CreateGrant", body).await["GrantToken"].clone();

    let not_found = |text: String| ("NotFoundException".to_owned(), text);
    let there = |name: &str| format!("arn:aws:kms:{other}:{ACCOUNT}:{name}");
    for (named, text) in [
        (id.to_owned(), format!("Key '{}' does not exist", arn_in(other, id))),
        (arn_in(other, id), format!("Key '{}' does not exist", arn_in(other, id))),
        (arn_in(home, id), format!("Invalid arn {home}")),
        ("alias/app".to_owned(), format!("Alias {} is not found.", there("alias/app"))),
    ] {
        assert_eq!(fails(&fixture, other, "DescribeKey", json!({"KeyId": named})).await, not_found(text), "{named}");
    }
    let context = json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}});
    assert_eq!(fails(&fixture, other, "Decrypt", context).await.0, "AccessDeniedException");
    for (operation, list) in [("ListKeys", "Keys"), ("ListAliases", "Aliases")] {
        assert_eq!(works(&fixture, home, operation, json!({})).await[list].as_array().unwrap().len(), 1);
        assert_eq!(works(&fixture, other, operation, json!({})).await[list], json!([]));
    }
    let mine = json!({"RetiringPrincipal": format!("arn:aws:iam::{ACCOUNT}:user/maria")});
    assert_eq!(works(&fixture, home, "ListRetirableGrants", mine.clone()).await["Grants"].as_array().unwrap().len(), 1);
    assert_eq!(works(&fixture, other, "ListRetirableGrants", mine).await["Grants"], json!([]));
    let body = json!({"KeyId": id, "GrantTokens": [token]});
    assert_eq!(fails(&fixture, other, "DescribeKey", body).await.0, "InvalidGrantTokenException");
    assert_eq!(
        fails(&fixture, other, "RetireGrant", json!({"GrantToken": token})).await.0,
        "InvalidGrantTokenException"
    );

    // The name is free there, for a key there.
    let second = works(&fixture, other, "CreateKey", json!({})).await["KeyMetadata"]["KeyId"].clone();
    works(&fixture, other, "CreateAlias", json!({"AliasName": "alias/app", "TargetKeyId": second})).await;
    let body = json!({"AliasName": "alias/b", "TargetKeyId": id});
    assert_eq!(fails(&fixture, other, "CreateAlias", body).await.0, "NotFoundException");
    works(&fixture, other, "TagResource", json!({"KeyId": second, "Tags": [{"TagKey": "t", "TagValue": "v"}]})).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    let found = |answer: Value| answer["KeyMetadata"]["KeyId"].clone();
    assert_eq!(found(works(&fixture, home, "DescribeKey", json!({"KeyId": "alias/app"})).await), id);
    assert_eq!(found(works(&fixture, other, "DescribeKey", json!({"KeyId": "alias/app"})).await), second);
    works(&fixture, other, "DeleteAlias", json!({"AliasName": "alias/app"})).await;
    opens(&fixture, home, &blob, "x").await;
    let tags = works(&fixture, other, "ListResourceTags", json!({"KeyId": second})).await["Tags"].clone();
    assert_eq!(tags[0]["TagKey"], "t");

    for (_, event) in fixture.events() {
        let arns = event.resources.iter().map(|resource| resource.arn.split(':').nth(3).unwrap().to_owned());
        assert!(arns.into_iter().all(|region| region.is_empty() || region == event.aws_region), "{event:?}");
    }
    let (status, answer) = answer(&fixture, &admin(&fixture), ("eu-west-3", "ListKeys"), json!({})).await;
    assert_eq!((status, answer["__type"].as_str()), (400, Some("InvalidSignatureException")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_home_region_must_be_served_and_names_must_be_regions() {
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    for (regions, error) in [
        (vec![US.to_owned()], "`regions` must name the node's own region eu-central-1"),
        (vec![REGION.to_owned(), "Mars".to_owned()], "Mars in `regions` is not the name of a region"),
        (
            (0..64).map(|index| format!("r-{index}")).chain([REGION.to_owned()]).collect(),
            "`regions` names more than 64 regions",
        ),
    ] {
        fixture.regions = regions;
        assert_eq!(fixture.start().await.err().unwrap().to_string(), error);
    }
    // A region that is taken away is not reached any more; what is in it waits for it.
    fixture.regions = vec![REGION.to_owned(), US.to_owned()];
    fixture.start().await.unwrap();
    let client = fixture.client_in(US, "credentials", "default");
    let key = create_key(&client).await;
    fixture.stop().await;
    fixture.regions.clear();
    fixture.start().await.unwrap();
    let client = fixture.client_in(US, "credentials", "default");
    assert_eq!(
        refused(&client, "TrentService.DescribeKey", json!({"KeyId": key})).await.0,
        "InvalidSignatureException"
    );
    fixture.stop().await;
    fixture.regions = vec![REGION.to_owned(), US.to_owned()];
    fixture.start().await.unwrap();
    let client = fixture.client_in(US, "credentials", "default");
    ok(&client, "TrentService.DescribeKey", json!({"KeyId": key})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_opens_what_its_primary_key_sealed_and_is_a_key_of_its_own() {
    let (mut fixture, clock) = node_of_regions().await;
    let made = works(&fixture, REGION, "CreateKey", json!({"MultiRegion": true, "Description": "first"})).await;
    let metadata = &made["KeyMetadata"];
    let id = metadata["KeyId"].as_str().unwrap().to_owned();
    let form =
        |id: &str| id.strip_prefix("mrk-").is_some_and(|digits| digits.len() == 32 && hex::decode(digits).is_ok());
    assert!(form(&id), "{id}");
    let member = |region: &str| json!({"Arn": arn_in(region, &id), "Region": region});
    let configuration = |kind: &str, primary: &str, replicas: &[&str]| {
        let replicas: Vec<Value> = replicas.iter().copied().map(member).collect();
        json!({"MultiRegionKeyType": kind, "PrimaryKey": member(primary), "ReplicaKeys": replicas})
    };
    assert_eq!(metadata["MultiRegionConfiguration"], configuration("PRIMARY", REGION, &[]));
    assert_eq!((&metadata["MultiRegion"], &metadata["KeyState"]), (&json!(true), &json!("Enabled")));

    let before = fixture.events().len();
    let policy = default_key_policy(ACCOUNT);
    let tags = json!([{"TagKey": "team", "TagValue": "ap"}]);
    let body = json!({"KeyId": id, "ReplicaRegion": US, "Policy": policy, "Description": "second", "Tags": tags});
    let answer = works(&fixture, REGION, "ReplicateKey", body).await;
    let replica = &answer["ReplicaKeyMetadata"];
    assert_eq!((&answer["ReplicaPolicy"], &answer["ReplicaTags"]), (&json!(policy), &tags));
    assert_eq!((&replica["KeyId"], &replica["Arn"]), (&json!(id), &json!(arn_in(US, &id))));
    assert_eq!((&replica["KeyState"], &replica["Enabled"]), (&json!("Creating"), &json!(false)));
    assert_eq!((&replica["Description"], &replica["MultiRegion"]), (&json!("second"), &json!(true)));
    assert_eq!(replica["MultiRegionConfiguration"], configuration("REPLICA", REGION, &[US]));
    assert!(replica.get("CurrentKeyMaterialId").is_none(), "not before it is made");
    let body = json!({"KeyId": id, "Plaintext": "eA=="});
    let creating = ("KMSInvalidStateException".to_owned(), format!("{} is creating.", arn_in(US, &id)));
    assert_eq!(fails(&fixture, US, "Encrypt", body).await, creating);
    fixture.stop().await;
    fixture.start().await.unwrap();
    settle(&fixture, &clock).await;
    assert_eq!(state(&fixture, US, &id).await, "Enabled");
    assert_eq!(
        told(&fixture, before).into_iter().filter(|(name, _)| name != "Encrypt").collect::<Vec<_>>(),
        pairs([("ReplicateKey", REGION), ("CreateKey", US), ("SynchronizeMultiRegionKey", US)])
    );
    told_rightly(&fixture, before, &id);

    for (from, to) in [(REGION, US), (US, REGION), (US, US)] {
        let blob = sealed(&fixture, from, &id, "text").await;
        opens(&fixture, to, &blob, "text").await;
        let body = json!({"CiphertextBlob": blob, "SourceEncryptionContext": {"a": "b"}, "DestinationKeyId": id});
        let again = works(&fixture, to, "ReEncrypt", body).await;
        assert_eq!((&again["SourceKeyId"], &again["KeyId"]), (&json!(arn_in(to, &id)), &json!(arn_in(to, &id))));
        // Nothing has it where there is no related key.
        let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}});
        assert_eq!(fails(&fixture, AP, "Decrypt", body).await.0, "AccessDeniedException");
        let other = primary(&fixture, json!({})).await;
        let body = json!({"CiphertextBlob": blob, "EncryptionContext": {"a": "b"}, "KeyId": other});
        assert_eq!(fails(&fixture, REGION, "Decrypt", body).await.0, "IncorrectKeyException");
    }

    // Its own: state, tags, description, aliases, grants, policy, use.
    works(&fixture, REGION, "DisableKey", json!({"KeyId": id})).await;
    works(&fixture, US, "CreateAlias", json!({"AliasName": "alias/r", "TargetKeyId": id})).await;
    works(&fixture, US, "UpdateKeyDescription", json!({"KeyId": id, "Description": "third"})).await;
    let blob = sealed(&fixture, US, "alias/r", "alone").await;
    opens(&fixture, US, &blob, "alone").await;
    assert_eq!(
        fails(&fixture, REGION, "Encrypt", json!({"KeyId": id, "Plaintext": "eA=="})).await.0,
        "DisabledException"
    );
    let only = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Deny", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:user/maria")}, "Action": "kms:*", "Resource": "*"},
    ]});
    works(&fixture, US, "PutKeyPolicy", json!({"KeyId": id, "Policy": only.to_string()})).await;
    let body = json!({"KeyId": id, "GranteePrincipal": format!("arn:aws:iam::{ACCOUNT}:user/maria"), "Operations": ["Decrypt"]});
    works(&fixture, US, "CreateGrant", body).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    let mut home = works(&fixture, REGION, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
    let mut there = works(&fixture, US, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
    assert_eq!((&home["KeyState"], &there["KeyState"]), (&json!("Disabled"), &json!("Enabled")));
    assert_eq!((&home["Description"], &there["Description"]), (&json!("first"), &json!("third")));
    assert_eq!(home["MultiRegionConfiguration"], configuration("PRIMARY", REGION, &[US]));
    assert_eq!(there["MultiRegionConfiguration"], configuration("REPLICA", REGION, &[US]));
    let own = ["Arn", "CreationDate", "Description", "Enabled", "KeyState", "MultiRegionConfiguration"];
    for name in own {
        home.as_object_mut().unwrap().remove(name);
        there.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(home, there, "all else is shared");
    for (operation, list, counts) in [("ListGrants", "Grants", [0, 1]), ("ListResourceTags", "Tags", [0, 1])] {
        for (region, count) in [REGION, US].into_iter().zip(counts) {
            let listed = works(&fixture, region, operation, json!({"KeyId": id})).await[list].clone();
            assert_eq!(listed.as_array().unwrap().len(), count, "{operation} {region}");
        }
    }
    let used = |answer: Value| answer["KeyLastUsage"]["Operation"].clone();
    assert_eq!(used(works(&fixture, US, "GetKeyLastUsage", json!({"KeyId": id})).await), "Decrypt");
    let home_policy = works(&fixture, REGION, "GetKeyPolicy", json!({"KeyId": id})).await["Policy"].clone();
    assert_ne!(home_policy, works(&fixture, US, "GetKeyPolicy", json!({"KeyId": id})).await["Policy"]);
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let uuid = uuid::Uuid::parse_str(&id[4..]).unwrap();
    let rows: i64 = store
        .query_row("SELECT count(*) FROM key_materials WHERE key_id = ?1", [&uuid.as_bytes()[..]], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1, "related keys have one copy of their material");
}

/// What the events of a replication say.
fn told_rightly(fixture: &Fixture, from: usize, id: &str) {
    let events: Vec<AuditEvent> = fixture.events().into_iter().skip(from).map(|(_, event)| event).collect();
    let find = |name: &str| events.iter().find(|event| event.event_name == name).unwrap();
    let (call, created, synchronized) = (find("ReplicateKey"), find("CreateKey"), find("SynchronizeMultiRegionKey"));
    assert_eq!((call.event_type.as_str(), call.read_only), ("AwsApiCall", false));
    assert_eq!(call.request_parameters.as_ref().unwrap()["replicaRegion"], US);
    let metadata = &call.response_elements.as_ref().unwrap()["replicaKeyMetadata"];
    assert_eq!(
        (&metadata["keyState"], &metadata["multiRegionConfiguration"]["primaryKey"]["region"]),
        (&json!("Creating"), &json!(REGION))
    );
    let images = &call.additional_event_data;
    assert_eq!(images.before.as_ref().unwrap()["replicaRegions"], json!([]));
    assert_eq!(images.after.as_ref().unwrap()["replicaRegions"], json!([US]));
    assert_eq!(call.resources[0].arn, arn_in(REGION, id));

    assert_eq!((created.event_type.as_str(), &created.request_id), ("AwsServiceEvent", &None));
    assert_eq!(
        (&created.user_identity.user_name, created.user_identity.invoked_by.as_deref()),
        (&call.user_identity.user_name, Some("kms.amazonaws.com"))
    );
    let more = &created.additional_event_data;
    assert_eq!(more.more["causedBy"], call.event_id);
    assert_eq!(more.more["policy"], call.response_elements.as_ref().unwrap()["replicaPolicy"]);
    let after = more.after.as_ref().unwrap();
    assert_eq!(
        (&after["keyArn"], &after["multiRegionKeyType"], &after["primaryRegion"]),
        (&json!(arn_in(US, id)), &json!("REPLICA"), &json!(REGION))
    );
    assert!(images.mutation < more.mutation && more.decided_by.is_some());

    assert_eq!(synchronized.response_elements, Some(json!({"keyId": arn_in(US, id)})));
    assert_eq!(synchronized.user_identity.invoked_by.as_deref(), Some("AWS Internal"));
    let arns: Vec<&str> = synchronized.resources.iter().map(|resource| resource.arn.as_str()).collect();
    assert_eq!(arns, [arn_in(US, id)]);
    let images = &synchronized.additional_event_data;
    assert_eq!(
        (&images.before.as_ref().unwrap()["keyState"], &images.after.as_ref().unwrap()["keyState"]),
        (&json!("Creating"), &json!("Enabled"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_sign_agree_and_authenticate_do_so_in_every_region() {
    let (mut fixture, clock) = node_of_regions().await;
    let mut made = Vec::new();
    for (spec, usage) in [
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("RSA_2048", "SIGN_VERIFY"),
        ("ML_DSA_44", "SIGN_VERIFY"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
        ("ECC_NIST_P384", "KEY_AGREEMENT"),
        ("RSA_2048", "ENCRYPT_DECRYPT"),
    ] {
        made.push((spec, related(&fixture, &clock, json!({"KeySpec": spec, "KeyUsage": usage})).await, usage));
    }
    fixture.stop().await;
    fixture.start().await.unwrap();
    for (spec, id, usage) in made {
        let algorithm = match spec {
            "ECC_NIST_P256" => "ECDSA_SHA_256",
            "ML_DSA_44" => "ML_DSA_SHAKE_256",
            _ => "RSASSA_PSS_SHA_256",
        };
        match usage {
            "SIGN_VERIFY" => {
                let mut body = json!({"KeyId": id, "Message": "eA==", "SigningAlgorithm": algorithm});
                body["Signature"] = works(&fixture, REGION, "Sign", body.clone()).await["Signature"].clone();
                assert_eq!(works(&fixture, US, "Verify", body).await["SignatureValid"], true, "{spec}");
            }
            "GENERATE_VERIFY_MAC" => {
                let mut body = json!({"KeyId": id, "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"});
                body["Mac"] = works(&fixture, US, "GenerateMac", body.clone()).await["Mac"].clone();
                assert_eq!(works(&fixture, REGION, "VerifyMac", body).await["MacValid"], true);
            }
            "ENCRYPT_DECRYPT" => {
                let mut body = json!({"KeyId": id, "Plaintext": "eA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"});
                body["CiphertextBlob"] = works(&fixture, US, "Encrypt", body.clone()).await["CiphertextBlob"].clone();
                assert_eq!(works(&fixture, REGION, "Decrypt", body).await["Plaintext"], "eA==");
            }
            _ => {}
        }
        if spec.starts_with("HMAC") {
            continue;
        }
        let public = |answer: Value| answer["PublicKey"].clone();
        let (home, there) = (
            public(works(&fixture, REGION, "GetPublicKey", json!({"KeyId": id})).await),
            public(works(&fixture, US, "GetPublicKey", json!({"KeyId": id})).await),
        );
        assert_eq!(home, there, "{spec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replicated_is_refused_and_nothing_is_made() {
    let (fixture, clock) = node_of_regions().await;
    let id = related(&fixture, &clock, json!({})).await;
    let single = works(&fixture, REGION, "CreateKey", json!({})).await["KeyMetadata"]["KeyId"].clone();
    let to = |key: &str, region: &str| json!({"KeyId": key, "ReplicaRegion": region});
    let not_primary = |arn: String| format!("{arn} is not a multi-region primary key.");
    let single = single.as_str().unwrap();
    for (region, body, code, text) in [
        (REGION, to(&id, US), "AlreadyExistsException", format!("{} already exists.", arn_in(US, &id))),
        (REGION, to(&id, REGION), "AlreadyExistsException", format!("{} already exists.", arn_in(REGION, &id))),
        (US, to(&id, AP), "UnsupportedOperationException", not_primary(arn_in(US, &id))),
        (REGION, to(single, AP), "UnsupportedOperationException", not_primary(arn_in(REGION, single))),
        (
            REGION,
            to(&id, "eu-west-3"),
            "UnsupportedOperationException",
            "eu-west-3 is not a region of this node.".into(),
        ),
        (AP, to(&id, US), "NotFoundException", format!("Key '{}' does not exist", arn_in(AP, &id))),
        (REGION, to("alias/x", US), "NotFoundException", "Invalid keyId 'alias/x'".into()),
    ] {
        assert_eq!(fails(&fixture, region, "ReplicateKey", body.clone()).await, (code.to_owned(), text), "{body}");
    }
    let locked = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:user/maria")}, "Action": "kms:*", "Resource": "*"},
    ]});
    for (more, code) in [
        (json!({"ReplicaRegion": "Mars"}), "ValidationException"),
        (json!({"ReplicaRegion": "x".repeat(33)}), "ValidationException"),
        (json!({"ReplicaRegion": null}), "ValidationException"),
        (json!({"Policy": "{}"}), "MalformedPolicyDocumentException"),
        (json!({"Policy": locked.to_string()}), "MalformedPolicyDocumentException"),
        (json!({"Tags": [{"TagKey": "aws:x", "TagValue": ""}]}), "TagException"),
        (json!({"Description": "x".repeat(8_193)}), "ValidationException"),
    ] {
        let mut body = to(&id, AP);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(fails(&fixture, REGION, "ReplicateKey", body).await.0, code, "{more}");
    }
    assert_eq!(works(&fixture, AP, "ListKeys", json!({})).await["Keys"], json!([]));
    let mut body = to(&id, AP);
    body["Policy"] = locked.to_string().into();
    body["BypassPolicyLockoutSafetyCheck"] = true.into();
    works(&fixture, REGION, "ReplicateKey", body).await;
    assert_eq!(works(&fixture, AP, "ListKeys", json!({})).await["Keys"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_replicate_takes_one_permission_here_and_another_there() {
    let (mut fixture, clock) = node_of_regions().await;
    let id = related(&fixture, &clock, json!({})).await;
    fixture.stop().await;
    let statement = |action: &str, condition: &str| {
        format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"*","Condition":{{{condition}}}}}"#)
    };
    let replicate = statement(
        "kms:ReplicateKey",
        r#""StringEquals":{"kms:ReplicaRegion":"ap-south-1","kms:MultiRegionKeyType":"PRIMARY"}"#,
    );
    let create = statement(
        "kms:CreateKey",
        r#""StringEquals":{"aws:RequestedRegion":"ap-south-1","kms:MultiRegionKeyType":"REPLICA"},"Bool":{"kms:MultiRegion":"true"}"#,
    );
    let elsewhere = statement("kms:CreateKey", r#""StringEquals":{"aws:RequestedRegion":"eu-central-1"}"#);
    let tag =
        statement("kms:TagResource", r#""StringEquals":{"aws:RequestedRegion":"ap-south-1","aws:RequestTag/a":"b"}"#);
    let update = |region: &str| {
        statement(
            "kms:UpdatePrimaryRegion",
            &format!(r#""StringEquals":{{"kms:PrimaryRegion":"us-east-1","aws:RequestedRegion":"{region}"}}"#),
        )
    };
    let users = [
        ("nobody", vec![]),
        ("source", vec![replicate.clone()]),
        ("target", vec![create.clone()]),
        ("elsewhere", vec![replicate.clone(), elsewhere]),
        ("both", vec![replicate.clone(), create.clone()]),
        ("tagger", vec![replicate, create, tag]),
        ("half", vec![update(REGION)]),
        ("whole", vec![update(REGION), update(US)]),
    ];
    for (name, statements) in &users {
        let policy = format!(r#"'''{{"Version":"2012-10-17","Statement":[{}]}}'''"#, statements.join(","));
        fixture.append_identities(&user(
            ACCOUNT,
            name,
            &format!("[{}]", if statements.is_empty() { String::new() } else { policy }),
        ));
    }
    fixture.start().await.unwrap();
    let asks = async |name: &str, operation: &str, body: Value| {
        let (status, answer) = answer(&fixture, &user_credentials(name), (REGION, operation), body).await;
        if status == 200 { "ok".to_owned() } else { answer["message"].as_str().unwrap_or_default().to_owned() }
    };
    let denied = |name: &str, action: &str, resource: &str| {
        format!(
            "User: arn:aws:iam::{ACCOUNT}:user/{name} is not authorized to perform: {action} on resource: {resource}"
        )
    };
    let here = arn_in(REGION, &id);
    let plain = json!({"KeyId": id, "ReplicaRegion": AP});
    let tagged = json!({"KeyId": id, "ReplicaRegion": AP, "Tags": [{"TagKey": "a", "TagValue": "b"}]});
    for (name, body, expected) in [
        ("nobody", &plain, denied("nobody", "kms:ReplicateKey", &here)),
        ("source", &plain, denied("source", "kms:CreateKey", "*")),
        ("target", &plain, denied("target", "kms:ReplicateKey", &here)),
        ("elsewhere", &plain, denied("elsewhere", "kms:CreateKey", "*")),
        ("both", &tagged, denied("both", "kms:TagResource", "*")),
        ("tagger", &tagged, "ok".to_owned()),
        // The denial comes before the state is told.
        ("source", &plain, denied("source", "kms:CreateKey", "*")),
        ("both", &plain, format!("{} already exists.", arn_in(AP, &id))),
        ("both", &json!({"KeyId": id, "ReplicaRegion": US}), denied("both", "kms:ReplicateKey", &here)),
    ] {
        let told = asks(name, "ReplicateKey", body.clone()).await;
        assert!(told.starts_with(&expected), "{name}: {told}");
    }
    let body = json!({"KeyId": id, "PrimaryRegion": US});
    for (name, expected) in [
        ("nobody", denied("nobody", "kms:UpdatePrimaryRegion", &here)),
        ("half", denied("half", "kms:UpdatePrimaryRegion", &arn_in(US, &id))),
        ("whole", "ok".to_owned()),
    ] {
        let told = asks(name, "UpdatePrimaryRegion", body.clone()).await;
        assert!(told.starts_with(&expected), "{name}: {told}");
    }
}
