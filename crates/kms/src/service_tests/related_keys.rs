//! How related multi-Region keys change together and end: rotation, another primary key, deletion, imported material,
//! quotas and containment.

use super::import::parcel_from;
use super::multi_region::{
    AP, US, answer, arn_in, fails, node_of_regions, opens, pairs, primary, related, sealed, settle, state, told, works,
};
use super::*;
use crate::ops::make_due_changes;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_key_rotates_and_its_replicas_with_it() {
    let (mut fixture, clock) = node_of_regions().await;
    let id = related(&fixture, &clock, json!({})).await;
    let first = sealed(&fixture, US, &id, "first").await;
    for operation in ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"] {
        let (code, _) = fails(&fixture, US, operation, json!({"KeyId": id})).await;
        assert_eq!(code, "UnsupportedOperationException", "{operation}");
    }
    let before = fixture.events().len();
    works(&fixture, REGION, "EnableKeyRotation", json!({"KeyId": id, "RotationPeriodInDays": 90})).await;
    let status = works(&fixture, US, "GetKeyRotationStatus", json!({"KeyId": id})).await;
    assert_eq!((&status["KeyRotationEnabled"], &status["RotationPeriodInDays"]), (&json!(true), &json!(90)));
    assert_eq!(status["KeyId"], arn_in(US, &id));
    works(&fixture, REGION, "RotateKeyOnDemand", json!({"KeyId": id})).await;
    // The replica follows in an event of its own.
    let followed = || {
        let told = told(&fixture, before);
        told.iter().skip_while(|(name, _)| name != "RotateKey").any(|(name, _)| name == "SynchronizeMultiRegionKey")
    };
    wait_until(followed).await;
    assert_eq!(
        told(&fixture, before).into_iter().filter(|(name, _)| name != "GetKeyRotationStatus").collect::<Vec<_>>(),
        pairs([
            ("EnableKeyRotation", REGION),
            ("SynchronizeMultiRegionKey", US),
            ("RotateKeyOnDemand", REGION),
            ("SynchronizeMultiRegionKey", US),
            ("RotateKey", REGION),
            ("SynchronizeMultiRegionKey", US),
        ])
    );
    let second = sealed(&fixture, US, &id, "second").await;
    // A replica made later has the former material, too.
    works(&fixture, REGION, "ReplicateKey", json!({"KeyId": id, "ReplicaRegion": AP})).await;
    settle(&fixture, &clock).await;
    for restarted in [false, true] {
        if restarted {
            fixture.stop().await;
            fixture.start().await.unwrap();
        }
        let mut current = Vec::new();
        for region in [REGION, US, AP] {
            opens(&fixture, region, &first, "first").await;
            opens(&fixture, region, &second, "second").await;
            let listed = works(&fixture, region, "ListKeyRotations", json!({"KeyId": id})).await["Rotations"].clone();
            assert_eq!((listed.as_array().unwrap().len(), &listed[0]["RotationType"]), (1, &json!("ON_DEMAND")));
            let metadata = works(&fixture, region, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
            assert_eq!(metadata["CurrentKeyMaterialId"], listed[0]["KeyMaterialId"]);
            current.push(metadata["CurrentKeyMaterialId"].clone());
        }
        current.dedup();
        assert_eq!(current.len(), 1);
    }
    // The schedule goes with the primary key.
    works(&fixture, REGION, "UpdatePrimaryRegion", json!({"KeyId": id, "PrimaryRegion": AP})).await;
    settle(&fixture, &clock).await;
    assert_eq!(
        fails(&fixture, REGION, "RotateKeyOnDemand", json!({"KeyId": id})).await.0,
        "UnsupportedOperationException"
    );
    clock.advance(DAY * 90);
    make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    let rotations: Vec<String> =
        told(&fixture, 0).into_iter().filter(|(name, _)| name == "RotateKey").map(|(_, region)| region).collect();
    assert_eq!(rotations, [REGION, AP]);
    let third = sealed(&fixture, REGION, &id, "third").await;
    opens(&fixture, US, &third, "third").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_key_moves_and_all_related_keys_say_so() {
    let (mut fixture, clock) = node_of_regions().await;
    let id = related(&fixture, &clock, json!({})).await;
    works(&fixture, REGION, "ReplicateKey", json!({"KeyId": id, "ReplicaRegion": AP})).await;
    settle(&fixture, &clock).await;
    let to = |region: &str| json!({"KeyId": id, "PrimaryRegion": region});
    for (region, body, code) in [
        (REGION, to(REGION), "UnsupportedOperationException"),
        (US, to(AP), "UnsupportedOperationException"),
        (REGION, to("eu-west-3"), "NotFoundException"),
        (REGION, to("Mars"), "ValidationException"),
    ] {
        assert_eq!(fails(&fixture, region, "UpdatePrimaryRegion", body.clone()).await.0, code, "{body}");
    }
    works(&fixture, US, "DisableKey", json!({"KeyId": id})).await;
    let disabled = ("DisabledException".to_owned(), format!("{} is disabled.", arn_in(US, &id)));
    assert_eq!(fails(&fixture, REGION, "UpdatePrimaryRegion", to(US)).await, disabled);
    works(&fixture, US, "EnableKey", json!({"KeyId": id})).await;

    let before = fixture.events().len();
    assert_eq!(works(&fixture, REGION, "UpdatePrimaryRegion", to(US)).await, Value::Null);
    assert_eq!(
        told(&fixture, before),
        pairs([("UpdatePrimaryRegion", REGION), ("UpdatePrimaryRegion", US), ("SynchronizeMultiRegionKey", AP)])
    );
    for (region, expected) in [(REGION, "Updating"), (US, "Updating"), (AP, "Enabled")] {
        assert_eq!(state(&fixture, region, &id).await, expected, "{region}");
    }
    let updating = ("KMSInvalidStateException".to_owned(), format!("{} is updating.", arn_in(US, &id)));
    for (operation, body) in [
        ("DisableKey", json!({"KeyId": id})),
        ("ScheduleKeyDeletion", json!({"KeyId": id})),
        ("UpdatePrimaryRegion", to(REGION)),
        ("ReplicateKey", json!({"KeyId": id, "ReplicaRegion": AP})),
    ] {
        assert_eq!(fails(&fixture, US, operation, body).await, updating, "{operation}");
    }
    let blob = sealed(&fixture, REGION, &id, "meanwhile").await;
    opens(&fixture, US, &blob, "meanwhile").await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    settle(&fixture, &clock).await;
    for region in [REGION, US, AP] {
        let metadata = works(&fixture, region, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
        let configuration = &metadata["MultiRegionConfiguration"];
        let kind = if region == US { "PRIMARY" } else { "REPLICA" };
        assert_eq!((&metadata["KeyState"], &configuration["MultiRegionKeyType"]), (&json!("Enabled"), &json!(kind)));
        assert_eq!(configuration["PrimaryKey"]["Region"], US);
        let replicas =
            configuration["ReplicaKeys"].as_array().unwrap().iter().map(|key| key["Region"].as_str().unwrap());
        assert_eq!(replicas.collect::<Vec<_>>(), [AP, REGION]);
    }
    replayed(&fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_key_waits_for_its_replicas_before_it_goes() {
    let (mut fixture, clock) = node_of_regions().await;
    let id = related(&fixture, &clock, json!({})).await;
    works(&fixture, US, "CreateAlias", json!({"AliasName": "alias/r", "TargetKeyId": id})).await;
    let blob = sealed(&fixture, US, &id, "kept").await;
    let schedule = json!({"KeyId": id, "PendingWindowInDays": 7});
    let answer = works(&fixture, REGION, "ScheduleKeyDeletion", schedule.clone()).await;
    let expected =
        json!({"KeyId": arn_in(REGION, &id), "KeyState": "PendingReplicaDeletion", "PendingWindowInDays": 7});
    assert_eq!(answer, expected);
    let metadata = works(&fixture, REGION, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
    assert_eq!((&metadata["PendingDeletionWindowInDays"], metadata.get("DeletionDate")), (&json!(7), None));
    let pending =
        ("KMSInvalidStateException".to_owned(), format!("{} is pending replica deletion.", arn_in(REGION, &id)));
    assert_eq!(fails(&fixture, REGION, "Encrypt", json!({"KeyId": id, "Plaintext": "eA=="})).await, pending);
    assert_eq!(fails(&fixture, REGION, "ScheduleKeyDeletion", schedule.clone()).await, pending);
    opens(&fixture, US, &blob, "kept").await;
    // It can be cancelled, and then comes back disabled.
    works(&fixture, REGION, "CancelKeyDeletion", json!({"KeyId": id})).await;
    assert_eq!(state(&fixture, REGION, &id).await, "Disabled");
    works(&fixture, REGION, "ScheduleKeyDeletion", schedule.clone()).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    clock.advance(DAY * 60);
    make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    assert_eq!(state(&fixture, REGION, &id).await, "PendingReplicaDeletion", "as long as it takes");

    let answer = works(&fixture, US, "ScheduleKeyDeletion", schedule).await;
    assert_eq!((&answer["KeyState"], answer["DeletionDate"].is_number()), (&json!("PendingDeletion"), true));
    let before = fixture.events().len();
    clock.advance(DAY * 7);
    make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    assert_eq!(fails(&fixture, US, "DescribeKey", json!({"KeyId": id})).await.0, "NotFoundException");
    assert_eq!(told(&fixture, before), pairs([("DeleteKey", US), ("SynchronizeMultiRegionKey", REGION)]),);
    let metadata = works(&fixture, REGION, "DescribeKey", json!({"KeyId": id})).await["KeyMetadata"].clone();
    assert_eq!(metadata["KeyState"], "PendingDeletion");
    assert_eq!(metadata["MultiRegionConfiguration"]["ReplicaKeys"], json!([]));
    // Its material outlived the replica; a replica made anew opens what the former one sealed.
    works(&fixture, REGION, "CancelKeyDeletion", json!({"KeyId": id})).await;
    works(&fixture, REGION, "EnableKey", json!({"KeyId": id})).await;
    works(&fixture, REGION, "ReplicateKey", json!({"KeyId": id, "ReplicaRegion": US})).await;
    settle(&fixture, &clock).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    opens(&fixture, US, &blob, "kept").await;
    assert_eq!(works(&fixture, US, "ListAliases", json!({})).await["Aliases"], json!([]));
    replayed(&fixture).await;

    for region in [REGION, US] {
        works(&fixture, region, "ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7})).await;
    }
    for days in [7, 7] {
        clock.advance(DAY * days);
        make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    }
    assert_eq!(works(&fixture, REGION, "ListKeys", json!({})).await["Keys"], json!([]));
    fixture.stop().await;
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let count = |table: &str| store.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    for table in ["keys", "key_materials", "key_policies", "aliases", "grants", "tags", "key_usage"] {
        assert_eq!(count(table).unwrap(), 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_material_is_imported_into_each_region_and_is_the_same() {
    let (mut fixture, clock) = node_of_regions().await;
    let id = primary(&fixture, json!({"Origin": "EXTERNAL"})).await;
    let to_us = json!({"KeyId": id, "ReplicaRegion": US});
    let waiting = ("KMSInvalidStateException".to_owned(), format!("{} is pending import.", arn_in(REGION, &id)));
    assert_eq!(fails(&fixture, REGION, "ReplicateKey", to_us.clone()).await, waiting);
    let import = async |fixture: &Fixture, region: &str, material: [u8; 32]| {
        let body = json!({"KeyId": id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
        let given = works(fixture, region, "GetParametersForImport", body).await;
        parcel_from(&given, "RSAES_OAEP_SHA_256", &material)
    };
    let parcel = import(&fixture, REGION, [7; 32]).await;
    works(&fixture, REGION, "ImportKeyMaterial", parcel.clone()).await;
    works(&fixture, REGION, "ReplicateKey", to_us).await;
    settle(&fixture, &clock).await;
    assert_eq!(state(&fixture, US, &id).await, "PendingImport");
    // A token is for the key in one region.
    let mut elsewhere = parcel;
    elsewhere["KeyId"] = id.clone().into();
    assert_eq!(fails(&fixture, US, "ImportKeyMaterial", elsewhere).await.0, "InvalidImportTokenException");
    let other = import(&fixture, US, [8; 32]).await;
    assert_eq!(fails(&fixture, US, "ImportKeyMaterial", other).await.0, "IncorrectKeyMaterialException");
    let same = import(&fixture, US, [7; 32]).await;
    works(&fixture, US, "ImportKeyMaterial", same).await;
    let blob = sealed(&fixture, REGION, &id, "imported").await;
    opens(&fixture, US, &blob, "imported").await;

    // Taken away in one region it stays in the other.
    works(&fixture, REGION, "DeleteImportedKeyMaterial", json!({"KeyId": id})).await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(state(&fixture, REGION, &id).await, "PendingImport");
    opens(&fixture, US, &blob, "imported").await;
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let materials = || store.query_row("SELECT count(*) FROM key_materials", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(materials(), 1);
    works(&fixture, US, "DeleteImportedKeyMaterial", json!({"KeyId": id})).await;
    assert_eq!(materials(), 0, "gone with the last of them");
    fixture.stop().await;
    fixture.start().await.unwrap();
    let same = import(&fixture, US, [7; 32]).await;
    works(&fixture, US, "ImportKeyMaterial", same).await;
    opens(&fixture, US, &blob, "imported").await;
    assert_eq!(state(&fixture, REGION, &id).await, "PendingImport");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_region_has_its_quotas_and_a_quarantine_is_for_all_of_them() {
    let (mut fixture, clock) = node_of_regions().await;
    fixture.stop().await;
    fixture.quotas = QuotaSettings::try_from(BTreeMap::from([("keys".to_owned(), "2".to_owned())])).unwrap();
    fixture.start().await.unwrap();
    let id = related(&fixture, &clock, json!({})).await;
    works(&fixture, US, "CreateKey", json!({})).await;
    assert_eq!(fails(&fixture, US, "CreateKey", json!({})).await.0, "LimitExceededException");
    let second = primary(&fixture, json!({})).await;
    let body = json!({"KeyId": second, "ReplicaRegion": US});
    assert_eq!(fails(&fixture, REGION, "ReplicateKey", body).await.0, "LimitExceededException");
    works(&fixture, AP, "CreateKey", json!({})).await;

    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "KeytrailService.PutQuarantine")];
    let responder = Credentials::read(&fixture.dir().join("service-credentials"), "responder").unwrap();
    let body = json!({"PrincipalArn": format!("arn:aws:iam::{ACCOUNT}:user/maria"), "TtlSeconds": 600}).to_string();
    let signed = Some((&responder, US, "kms", fixture.clock.now_us()));
    assert_eq!(raw(&fixture, &headers, body.as_bytes(), signed).await.0, 200);
    works(&fixture, REGION, "UpdatePrimaryRegion", json!({"KeyId": id, "PrimaryRegion": US})).await;
    for region in [REGION, US] {
        let maria = user_credentials("maria");
        let body = json!({"KeyId": id, "Plaintext": "eA=="});
        assert_eq!(answer(&fixture, &maria, (region, "Encrypt"), body).await.1["__type"], "AccessDeniedException");
        // The responder acts where the key is, also in a state that an attacker could renew.
        let named = json!({"KeyId": arn_in(region, &id)});
        assert_eq!(answer(&fixture, &responder, (region, "DisableKey"), named.clone()).await.0, 200);
        assert_eq!(answer(&fixture, &responder, (AP, "DisableKey"), named).await.0, 400);
    }
}

/// Each event's image is what the one before it about the same key left, and the last ones are what the node says.
pub(super) async fn replayed(fixture: &Fixture) {
    let mut images: BTreeMap<String, Value> = BTreeMap::new();
    for (leaf, event) in fixture.events() {
        let data = event.additional_event_data;
        let key = |image: &Option<Value>| image.as_ref().and_then(|image| image["keyArn"].as_str().map(str::to_owned));
        if let Some(arn) = key(&data.before) {
            let mut known = images.remove(&arn).unwrap();
            let mut before = data.before.unwrap();
            // Aliases, tags and the like are changed by events without an image of the key.
            for image in [&mut known, &mut before] {
                image.as_object_mut().unwrap().remove("tags");
            }
            assert_eq!(known, before, "{} at {}", event.event_name, leaf.seq);
        }
        if let Some(arn) = key(&data.after) {
            images.insert(arn, data.after.unwrap());
        }
    }
    assert!(!images.is_empty());
    for (arn, image) in images {
        let region = image["region"].as_str().unwrap();
        let metadata = works(fixture, region, "DescribeKey", json!({"KeyId": arn})).await["KeyMetadata"].clone();
        assert_eq!((&metadata["KeyState"], &metadata["KeyId"]), (&image["keyState"], &image["keyId"]));
        let configuration = &metadata["MultiRegionConfiguration"];
        assert_eq!(configuration["MultiRegionKeyType"], image["multiRegionKeyType"]);
        assert_eq!(configuration["PrimaryKey"]["Region"], image["primaryRegion"]);
    }
}

/// What related keys share and each row repeats could be made to differ by hand only; a node does not start on that.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_which_related_keys_differ_is_refused() {
    let (mut fixture, clock) = node_of_regions().await;
    related(&fixture, &clock, json!({})).await;
    fixture.stop().await;
    let path = fixture.dir().join("kms.db");
    let change = |set: &str| {
        let store = rusqlite::Connection::open(&path).unwrap();
        store.execute(&format!("UPDATE keys SET {set} WHERE region = 'us-east-1'"), []).unwrap();
    };
    for (wrong, right) in [
        ("rotation_days = 90, next_rotation_us = 5", "rotation_days = NULL, next_rotation_us = NULL"),
        ("primary_region = 'ap-south-1'", "primary_region = 'eu-central-1'"),
        ("primary_region = NULL", "primary_region = 'eu-central-1'"),
    ] {
        change(wrong);
        let error = fixture.start().await.err().map(|error| format!("{error:?}")).unwrap_or_default();
        assert!(error.contains("keys"), "{wrong}: {error}");
        change(right);
    }
    fixture.start().await.unwrap();
}
