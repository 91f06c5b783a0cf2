//! One key, several imported materials: what waits, what decrypts, what is away, and that a restart changes nothing of it.

use super::import::{external, parcel};
use super::rotation::{fails, fixture_and_clock, rotations, works};
use super::*;

const WRAPPING: &str = "RSAES_OAEP_SHA_256";

/// The body of an import of new material.
async fn new_material(fixture: &Fixture, key: &str, byte: u8) -> Value {
    let mut body = parcel(fixture, key, WRAPPING, &[byte; 32]).await;
    body["ImportType"] = "NEW_KEY_MATERIAL".into();
    body
}

async fn import(fixture: &Fixture, body: Value) -> String {
    let answer = works(fixture, "ImportKeyMaterial", body).await;
    answer["KeyMaterialId"].as_str().unwrap().to_owned()
}

async fn seal(fixture: &Fixture, key: &str) -> Value {
    works(fixture, "Encrypt", json!({"KeyId": key, "Plaintext": "eA=="})).await["CiphertextBlob"].clone()
}

async fn described(fixture: &Fixture, key: &str) -> Value {
    works(fixture, "DescribeKey", json!({"KeyId": key})).await["KeyMetadata"].clone()
}

/// Id, state and import state of each material, and whether a rotation brought it.
async fn listed(fixture: &Fixture, key: &str) -> Vec<(String, String, String, bool)> {
    let body = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let answer = works(fixture, "ListKeyRotations", body).await;
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let entry = |entry: &Value| {
        let rotated = entry["RotationType"] == "ON_DEMAND" && entry["RotationDate"].is_number();
        let states = (text(entry, "KeyMaterialState"), text(entry, "ImportState"));
        (text(entry, "KeyMaterialId"), states.0, states.1, rotated)
    };
    answer["Rotations"].as_array().unwrap().iter().map(entry).collect()
}

fn material(id: &str, state: &str, import_state: &str, rotated: bool) -> (String, String, String, bool) {
    (id.to_owned(), state.to_owned(), import_state.to_owned(), rotated)
}

/// A key rotated once, its two materials and a ciphertext of each.
async fn rotated(fixture: &Fixture) -> (String, [String; 2], [Value; 2]) {
    let key = external(fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let first = import(fixture, parcel(fixture, &key, WRAPPING, &[1; 32]).await).await;
    let old = seal(fixture, &key).await;
    let second = import(fixture, new_material(fixture, &key, 2).await).await;
    let before = rotations(fixture).await;
    works(fixture, "RotateKeyOnDemand", json!({"KeyId": key})).await;
    wait_until(|| fixture.events().iter().filter(|(_, event)| event.event_name == "RotateKey").count() == before + 1)
        .await;
    let new = seal(fixture, &key).await;
    (key, [first, second], [old, new])
}

#[tokio::test(flavor = "multi_thread")]
async fn new_material_waits_until_it_is_rotated_to_and_the_former_decrypts() {
    let (mut fixture, _clock) = fixture_and_clock().await;
    let key = external(&fixture, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT").await;
    let named = json!({"KeyId": key});
    let mut body = parcel(&fixture, &key, WRAPPING, &[1; 32]).await;
    body["KeyMaterialDescription"] = "from 2026/HSM-1".into();
    let first = import(&fixture, body).await;
    let old = seal(&fixture, &key).await;
    assert_eq!(fails(&fixture, "RotateKeyOnDemand", named.clone()).await, "KMSInvalidStateException");
    // What was not said to be new must have been there before.
    let unsaid = parcel(&fixture, &key, WRAPPING, &[2; 32]).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", unsaid).await, "IncorrectKeyMaterialException");

    let second = import(&fixture, new_material(&fixture, &key, 2).await).await;
    assert_eq!(import(&fixture, new_material(&fixture, &key, 2).await).await, second, "a repeated call");
    let third = new_material(&fixture, &key, 3).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", third.clone()).await, "KMSInvalidStateException");
    let waiting =
        [material(&first, "CURRENT", "IMPORTED", false), material(&second, "PENDING_ROTATION", "IMPORTED", false)];
    assert_eq!(listed(&fixture, &key).await, waiting);
    assert_eq!(described(&fixture, &key).await["CurrentKeyMaterialId"], first);
    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(listed(&fixture, &key).await, waiting);

    works(&fixture, "RotateKeyOnDemand", named.clone()).await;
    let rotated = || fixture.events().into_iter().find(|(_, event)| event.event_name == "RotateKey");
    wait_until(|| rotated().is_some()).await;
    let event = rotated().unwrap().1;
    let details = &event.additional_event_data.more["serviceEventDetails"];
    assert_eq!((&details["keyOrigin"], &details["rotationType"]), (&json!("EXTERNAL"), &json!("ON_DEMAND")));
    assert_eq!((&details["previousKeyMaterialId"], &details["currentKeyMaterialId"]), (&json!(first), &json!(second)));
    let image = event.additional_event_data.after.unwrap();
    assert_eq!(image["keyMaterialId"], second);
    assert_eq!(image["otherKeyMaterial"][0]["keyMaterialState"], "NON_CURRENT");
    let now = [material(&first, "NON_CURRENT", "IMPORTED", false), material(&second, "CURRENT", "IMPORTED", true)];
    assert_eq!(listed(&fixture, &key).await, now);
    let only = works(&fixture, "ListKeyRotations", named.clone()).await["Rotations"].clone();
    assert_eq!((only.as_array().unwrap().len(), &only[0]["KeyMaterialId"]), (1, &json!(second)));
    let all = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let all = works(&fixture, "ListKeyRotations", all).await["Rotations"].clone();
    assert_eq!(all[0]["KeyMaterialDescription"], "from 2026/HSM-1");

    fixture.stop().await;
    fixture.start().await.unwrap();
    assert_eq!(listed(&fixture, &key).await, now);
    let new = seal(&fixture, &key).await;
    for (blob, id) in [(&old, &first), (&new, &second)] {
        let opened = works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
        assert_eq!((&opened["Plaintext"], &opened["KeyMaterialId"]), (&json!("eA=="), &json!(id)));
    }
    // There is room again.
    works(&fixture, "ImportKeyMaterial", third).await;
    let first_again = new_material(&fixture, &key, 1).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", first_again).await, "IncorrectKeyMaterialException");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_waits_for_all_material_that_was_ever_current() {
    let (mut fixture, _clock) = fixture_and_clock().await;
    let (key, [first, second], [old, _]) = rotated(&fixture).await;
    let delete = |id: &str| json!({"KeyId": key, "KeyMaterialId": id});
    let answer = works(&fixture, "DeleteImportedKeyMaterial", delete(&first)).await;
    assert_eq!(answer, json!({"KeyId": key, "KeyMaterialId": first}));
    let metadata = described(&fixture, &key).await;
    assert_eq!((&metadata["KeyState"], &metadata["CurrentKeyMaterialId"]), (&json!("PendingImport"), &json!(second)));
    let encrypting = json!({"KeyId": key, "Plaintext": "eA=="});
    assert_eq!(fails(&fixture, "Encrypt", encrypting.clone()).await, "KMSInvalidStateException");
    fixture.stop().await;
    fixture.start().await.unwrap();
    let away =
        [material(&first, "NON_CURRENT", "PENDING_IMPORT", false), material(&second, "CURRENT", "IMPORTED", true)];
    assert_eq!(listed(&fixture, &key).await, away);

    // Without an id the current one goes; the key takes each back, and nothing else as such.
    works(&fixture, "DeleteImportedKeyMaterial", json!({"KeyId": key})).await;
    let mut back = parcel(&fixture, &key, WRAPPING, &[2; 32]).await;
    back["ImportType"] = "EXISTING_KEY_MATERIAL".into();
    back["KeyMaterialId"] = first.as_str().into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", back.clone()).await, "IncorrectKeyMaterialException");
    back["KeyMaterialId"] = second.as_str().into();
    works(&fixture, "ImportKeyMaterial", back).await;
    assert_eq!(described(&fixture, &key).await["KeyState"], "PendingImport");
    fixture.stop().await;
    fixture.start().await.unwrap();
    import(&fixture, parcel(&fixture, &key, WRAPPING, &[1; 32]).await).await;
    assert_eq!(described(&fixture, &key).await["KeyState"], "Enabled");
    works(&fixture, "Encrypt", encrypting).await;
    let opened = works(&fixture, "Decrypt", json!({"CiphertextBlob": old})).await;
    assert_eq!(opened["KeyMaterialId"], first);

    // What waits may go, and the key works on.
    let third = import(&fixture, new_material(&fixture, &key, 3).await).await;
    works(&fixture, "DeleteImportedKeyMaterial", delete(&third)).await;
    assert_eq!(described(&fixture, &key).await["KeyState"], "Enabled");
    assert_eq!(fails(&fixture, "DeleteImportedKeyMaterial", delete(&third)).await, "NotFoundException");
    assert_eq!(listed(&fixture, &key).await.len(), 2);
    assert_eq!(fails(&fixture, "RotateKeyOnDemand", json!({"KeyId": key})).await, "KMSInvalidStateException");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_material_ends_on_its_own_date() {
    let (fixture, clock) = fixture_and_clock().await;
    let (key, [first, second], [old, _]) = rotated(&fixture).await;
    let now_secs = clock.now_us() / 1_000_000;
    let mut ending = parcel(&fixture, &key, WRAPPING, &[1; 32]).await;
    ending["ExpirationModel"] = "KEY_MATERIAL_EXPIRES".into();
    ending["ValidTo"] = (now_secs + 3_600).into();
    let mut waiting = new_material(&fixture, &key, 3).await;
    waiting["ExpirationModel"] = "KEY_MATERIAL_EXPIRES".into();
    waiting["ValidTo"] = (now_secs + 1_800).into();
    import(&fixture, ending.clone()).await;
    let third = import(&fixture, waiting).await;
    let ended = || {
        let events = fixture.events().into_iter().filter(|(_, event)| event.event_name == "DeleteExpiredKeyMaterial");
        let id = |event: AuditEvent| event.additional_event_data.more["serviceEventDetails"]["keyMaterialId"].clone();
        events.map(|(_, event)| id(event)).collect::<Vec<_>>()
    };
    clock.advance(Duration::from_secs(1_801));
    wait_until(|| ended() == [json!(third)]).await;
    assert_eq!(described(&fixture, &key).await["KeyState"], "Enabled", "what only waited hinders nothing");
    clock.advance(Duration::from_secs(1_801));
    // Not when the job gets there.
    assert_eq!(fails(&fixture, "Decrypt", json!({"CiphertextBlob": old})).await, "KMSInvalidStateException");
    wait_until(|| ended() == [json!(third), json!(first)]).await;
    let away =
        [material(&first, "NON_CURRENT", "PENDING_IMPORT", false), material(&second, "CURRENT", "IMPORTED", true)];
    assert_eq!(listed(&fixture, &key).await, away);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_keys_and_rotated_root_keys_take_all_material_along() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let (key, _, [old, new]) = rotated(&fixture).await;
    import(&fixture, new_material(&fixture, &key, 3).await).await;
    let dir = fixture.dir().to_owned();
    tokio::task::spawn_blocking(move || crate::service::rotate_running(&dir, None, false)).await.unwrap().unwrap();
    fixture.stop().await;
    fixture.start().await.unwrap();
    for blob in [&old, &new] {
        works(&fixture, "Decrypt", json!({"CiphertextBlob": blob})).await;
    }
    works(&fixture, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    clock.advance(Duration::from_secs(8 * 86_400));
    wait_until(|| fixture.events().iter().any(|(_, event)| event.event_name == "DeleteKey")).await;
    fixture.stop().await;
    let store = rusqlite::Connection::open(fixture.dir().join("kms.db")).unwrap();
    let left: u32 = store.query_row("SELECT count(*) FROM key_materials", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// Keys that AWS, or this node, gives one material for life.
#[tokio::test(flavor = "multi_thread")]
async fn other_keys_take_no_second_material() {
    let (fixture, _clock) = fixture_and_clock().await;
    let key = external(&fixture, "HMAC_256", "GENERATE_VERIFY_MAC").await;
    works(&fixture, "ImportKeyMaterial", parcel(&fixture, &key, WRAPPING, &[1; 32]).await).await;
    let body = new_material(&fixture, &key, 2).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", body).await, "UnsupportedOperationException");
    let mut body = parcel(&fixture, &key, WRAPPING, &[1; 32]).await;
    body["KeyMaterialDescription"] = "mine".into();
    assert_eq!(fails(&fixture, "ImportKeyMaterial", body).await, "UnsupportedOperationException");
    let create = json!({"Origin": "EXTERNAL", "MultiRegion": true});
    let key = works(&fixture, "CreateKey", create).await["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    works(&fixture, "ImportKeyMaterial", parcel(&fixture, &key, WRAPPING, &[1; 32]).await).await;
    let body = new_material(&fixture, &key, 2).await;
    assert_eq!(fails(&fixture, "ImportKeyMaterial", body).await, "UnsupportedOperationException");
}
