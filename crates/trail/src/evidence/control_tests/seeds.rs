//! One violation for each query: what is planted in the clean log, and what the control has to name.

use super::world::{
    SECOND_US, World, alert, alias, call, change, decrypt, grant, heartbeat, image, incident, key_policy, start,
};
use crate::evidence::control::Header;
use crate::evidence::state::Access;
use keytrail_kms::chain::Kind;
use serde_json::{Value, json};

pub(super) struct Seed {
    /// One for each violation.
    pub(super) id: &'static str,
    pub(super) plant: fn(&mut World),
    /// Part of the sentence that names it.
    pub(super) names: &'static str,
}

/// After the clean log's stop, in seconds.
const LATER: i64 = 8 * 86_400 + 100;

/// The seed of a control, by its query and what the clause asks of it.
pub(super) fn of(header: &Header) -> Option<Seed> {
    if header.query == "events-recorded" {
        return incomplete(header.params.get("class")?.as_str()?);
    }
    type Planted = (&'static str, fn(&mut World), &'static str);
    let (id, plant, names): Planted = match header.query.as_str() {
        "access-changes" => {
            ("access-changes", |world| world.call(grant("eve", "eve")), "user/eve gave themselves a grant")
        }
        "admin-without-mfa" => {
            ("admin-without-mfa", without_mfa, "user/app made 1 changes (DisableKey) without a second factor")
        }
        "algorithms" => ("algorithms", weak_algorithm, "RSAES_OAEP_SHA_1"),
        "attributed" => ("attributed", nobody, "successful calls by nobody in particular"),
        "capacity" => {
            ("capacity", |world| world.at(50, Kind::Refusals, json!({"unavailable": 4})), "4 calls were refused")
        }
        "clock" => (
            "clock",
            |world| world.at(33, Kind::Heartbeat, heartbeat(-5_000_000)),
            "moved by at most 5000000 microseconds",
        ),
        "config-changes" => ("config-changes", other_configuration, "run 2 has another configuration"),
        "credential-changes" => ("credential-changes", own_access_key, "user/eve: CreateAccessKey on their own user"),
        "cryptoperiod" => ("cryptoperiod", old_key, "k-old has had its key material for 509 days"),
        "detections" => ("detections", late_alert, "was raised 3600 s after"),
        "effective-access" => ("effective-access", everyone, "everyone may use"),
        "event-catalogue" => ("event-catalogue", |world| world.call(call("Unknown", "eve", None)), "events Unknown"),
        "halts-and-gaps" => ("halts-and-gaps", crash, "went on after 7190 s"),
        "log-starts" => ("log-starts", crash, "run 3 began"),
        "imports" => ("imports", import_alone, "user/keymaker imported key material into"),
        "key-custodians" | "tagged-decrypts" => {
            ("use-by-another", |world| world.call(decrypt("eve", "k-1")), "user/eve")
        }
        "key-inventory" => ("key-inventory", from_elsewhere, "EXTERNAL_KEY_STORE"),
        "key-states" => ("key-states", use_of_disabled, "times while it was Disabled"),
        "keys-created" => ("keys-created", weak_key, "SM2"),
        "keys-destroyed" => ("keys-destroyed", used_after_deletion, "was used 1 times after it was destroyed"),
        "log-copies" => ("log-copies", |world| world.at(LATER, Kind::EpochStart, start(2, false)), "was not reached"),
        "log-fields" => (
            "log-fields",
            |world| world.call(without(decrypt("app", "k-1"), "sourceIPAddress")),
            "lack where the call came from",
        ),
        "log-integrity" => (
            "log-integrity",
            |world| world.at(50, Kind::GapDeclaration, json!({"recordVersion": 1})),
            "a gap in the log was declared",
        ),
        "log-readers" => ("log-readers", read_by_eve, "user/eve read the log"),
        "readable" => ("readable", |world| world.call(json!({"eventName": 5})), "1 cannot be read"),
        "responses" => {
            ("responses", |world| world.alerts.push(alert("a-2", "critical")), "(critical) belongs to no incident")
        }
        "retention" => (
            "retention",
            |world| world.at(50, Kind::Prune, json!({"recordVersion": 1, "keepSeconds": 30 * 86_400})),
            "records older than 30 days were pruned",
        ),
        "substitutions" => (
            "substitutions",
            |world| world.call(alias("UpdateAlias", "keymaker", "k-1")),
            "which the same principal made",
        ),
        _ => return None,
    };
    Some(Seed { id, plant, names })
}

/// An event of the class without the address it came from.
fn incomplete(class: &str) -> Option<Seed> {
    let (id, plant): (&'static str, fn(&mut World)) = match class {
        "any" | "use" => ("incomplete-use", |world| world.call(without(decrypt("app", "k-1"), "sourceIPAddress"))),
        "administration" => ("incomplete-administration", |world| {
            world.call(without(change("DisableKey", "eve", "k-3", "Disabled"), "sourceIPAddress"))
        }),
        "log-access" => {
            ("incomplete-log-access", |world| world.call(without(call("GetFrames", "eve", None), "sourceIPAddress")))
        }
        "refused" => ("incomplete-refused", |world| {
            let mut event = without(decrypt("eve", "k-1"), "sourceIPAddress");
            event["errorCode"] = "AccessDenied".into();
            world.call(event);
        }),
        "credentials" => ("incomplete-credentials", |world| {
            let mut event = without(call("DeleteUser", "eve", None), "sourceIPAddress");
            event["eventSource"] = "iam.amazonaws.com".into();
            world.call(event);
        }),
        "objects" => {
            ("incomplete-objects", |world| world.call(without(alias("DeleteAlias", "eve", "k-1"), "sourceIPAddress")))
        }
        _ => return None,
    };
    Some(Seed { id, plant, names: "were recorded without who, where from or an id" })
}

fn without(mut event: Value, member: &str) -> Value {
    event.as_object_mut().unwrap().shift_remove(member);
    event
}

fn without_mfa(world: &mut World) {
    world.call(change("DisableKey", "app", "k-3", "Disabled"));
}

fn weak_algorithm(world: &mut World) {
    let mut event = decrypt("app", "k-1");
    event["requestParameters"]["encryptionAlgorithm"] = "RSAES_OAEP_SHA_1".into();
    world.call(event);
}

fn nobody(world: &mut World) {
    let mut event = decrypt("app", "k-1");
    event["userIdentity"] = json!({"type": "Unknown"});
    world.call(event);
}

fn other_configuration(world: &mut World) {
    let mut payload = start(2, true);
    payload["configHash"] = "cc".into();
    world.at(LATER, Kind::EpochStart, payload);
}

fn own_access_key(world: &mut World) {
    let mut event = call("CreateAccessKey", "eve", None);
    event["eventSource"] = "iam.amazonaws.com".into();
    event["requestParameters"] = json!({"userName": "eve"});
    world.call(event);
}

/// Made five hundred days before the period's start.
fn old_key(world: &mut World) {
    world.at(-499 * 86_400, Kind::Event, change("CreateKey", "keymaker", "k-old", "Enabled"));
}

fn late_alert(world: &mut World) {
    let mut late = alert("a-2", "high");
    late["detectedAtMicros"] = (late["lastEventMicros"].as_i64().unwrap() + 3_600 * SECOND_US).into();
    world.alerts.push(late);
    world.incidents.push(incident("a-2", "contained"));
}

fn everyone(world: &mut World) {
    let mut public: Access = world.access[0].clone();
    public.principal = "*".to_owned();
    world.access.push(public);
    let mut policy = change("PutKeyPolicy", "eve", "k-1", "Enabled");
    policy["additionalEventData"]["policy"] = key_policy("*").into();
    world.call(policy);
}

/// A second run that ends without a stop, and a third two hours later.
fn crash(world: &mut World) {
    world.at(LATER, Kind::EpochStart, start(2, true));
    world.at(LATER + 10, Kind::Heartbeat, heartbeat(0));
    world.at(LATER + 7_200, Kind::EpochStart, start(3, true));
}

fn import_alone(world: &mut World) {
    world.at(49, Kind::Event, call("GetParametersForImport", "keymaker", Some("k-3")));
    world.call(change("ImportKeyMaterial", "keymaker", "k-3", "Enabled"));
}

fn from_elsewhere(world: &mut World) {
    let mut event = change("CreateKey", "keymaker", "k-4", "Enabled");
    event["additionalEventData"]["after"] = image("k-4", "Enabled", "EXTERNAL_KEY_STORE");
    world.call(event);
}

fn use_of_disabled(world: &mut World) {
    world.at(49, Kind::Event, change("DisableKey", "administrator", "k-1", "Disabled"));
    world.call(decrypt("app", "k-1"));
}

fn weak_key(world: &mut World) {
    let mut event = change("CreateKey", "keymaker", "k-4", "Enabled");
    event["additionalEventData"]["after"]["keySpec"] = "SM2".into();
    world.call(event);
}

fn used_after_deletion(world: &mut World) {
    world.at(50 + 8 * 86_400, Kind::Event, decrypt("app", "k-2"));
}

fn read_by_eve(world: &mut World) {
    let mut event = call("GetFrames", "eve", None);
    event["eventSource"] = "keytrail.internal".into();
    world.call(event);
}
