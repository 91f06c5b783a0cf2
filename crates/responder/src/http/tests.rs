//! Who may do what over HTTP, and what hostile requests get.

use super::*;
use crate::testing::{Bench, event, principal_arn};
use keytrail_kms::clock::FakeClock;
use std::time::Duration;

struct Rig {
    dir: tempfile::TempDir,
    door: Door,
    clock: Arc<FakeClock>,
    token: String,
    id: String,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let clock = Arc::new(FakeClock::default());
        clock.advance(Duration::from_secs(60));
        let alert = Bench::new()
            .alert("denied-burst", vec![event("Decrypt").denied().by("<script>alert(1)</script>")])
            .verified();
        let now = i64::try_from(clock.now_us()).unwrap();
        let (id, _) = store
            .write_now(|tx| {
                link::set_public_url(tx, Some("https://soc.example.org/keytrail/"))?;
                let found = incident::find_or_open(tx, &alert, Duration::from_secs(3600), now)?;
                incident::join(tx, &found.0, &alert, false, now)?;
                Ok(found)
            })
            .unwrap();
        let token = users::add_user(dir.path(), "alice", Some("alice@example.org")).unwrap().to_string();
        let door = Door::new(dir.path().to_owned(), store, clock.clone());
        Self { dir, door, clock, token, id: id.to_string() }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let authorization = format!("Bearer {}", self.token);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let request = Request { method, path, query, authorization: Some(&authorization), body: body.as_bytes() };
        let reply = self.door.answer(&request);
        (reply.status, serde_json::from_str(&reply.body).unwrap())
    }

    fn deed(&self, deed: &str, body: &str) -> (u16, Value) {
        self.call("POST", &format!("/v1/incidents/{}/{deed}", self.id), body)
    }

    /// Path and query of a fresh link.
    fn link(&self) -> String {
        let now = i64::try_from(self.clock.now_us()).unwrap();
        let id = incident::IncidentId::new(&self.id);
        let url = self.door.store.read_now(|db| Ok(link::acknowledge(db, &id, now).unwrap())).unwrap().unwrap();
        url.strip_prefix("https://soc.example.org/keytrail").unwrap().to_owned()
    }

    /// The same link, for another deed.
    fn deed_link(&self, link: &str, deed: &str) -> String {
        link.replace("/ack?", &format!("/{deed}?"))
    }

    fn post(&self, link: &str, body: &str) -> Reply {
        let (path, query) = link.split_once('?').unwrap_or((link, ""));
        self.door.answer(&Request { method: "POST", path, query, body: body.as_bytes(), ..Request::default() })
    }

    /// An incident of somebody else.
    fn another(&self, who: &str) -> String {
        let alert = Bench::new().alert("denied-burst", vec![event("Decrypt").denied().by(who)]).verified();
        let now = i64::try_from(self.clock.now_us()).unwrap();
        let opened = self.door.store.write_now(|tx| {
            let (id, _) = incident::find_or_open(tx, &alert, Duration::from_secs(3600), now)?;
            incident::join(tx, &id, &alert, false, now)?;
            Ok(id)
        });
        opened.unwrap().to_string()
    }

    fn texts(&self) -> Vec<String> {
        let shown = self.shown();
        let entries = shown["timeline"].as_array().unwrap().iter();
        entries.filter_map(|one| one["text"].as_str().map(str::to_owned)).collect()
    }

    fn open(&self, method: &str, link: &str) -> Reply {
        let (path, query) = link.split_once('?').unwrap_or((link, ""));
        self.door.answer(&Request { method, path, query, ..Request::default() })
    }

    fn shown(&self) -> Value {
        self.call("GET", &format!("/v1/incidents/{}", self.id), "").1
    }
}

#[test]
fn a_token_is_needed_and_says_who_it_was() {
    let rig = Rig::new();
    for authorization in [None, Some("Bearer "), Some("Bearer kti_x"), Some("Basic YTpi"), Some("bearer")] {
        let request = Request { method: "GET", path: "/v1/incidents", authorization, ..Request::default() };
        assert_eq!(rig.door.answer(&request).status, 401, "{authorization:?}");
    }
    assert_eq!(rig.call("GET", "/v1/incidents", "").1["incidents"][0]["id"], rig.id);
    let (status, shown) = rig.deed("ack", "");
    assert_eq!((status, &shown["summary"]["acknowledged_by"]), (200, &json!("alice")));
    assert_eq!(shown["summary"]["state"], "acknowledged");
    assert_eq!(rig.call("GET", "/v1/incidents?state=acknowledged", "").1["incidents"].as_array().unwrap().len(), 1);
    assert_eq!(rig.call("GET", "/v1/incidents?state=resolved", "").1["incidents"], json!([]));
    let file = std::fs::read_to_string(rig.dir.path().join(users::USERS_FILE)).unwrap();
    assert!(!file.contains(&rig.token), "the file holds no token");
    assert!(users::remove_user(rig.dir.path(), "alice").unwrap());
    assert_eq!(rig.call("GET", "/v1/incidents", "").0, 401, "who is taken out is out");
}

#[test]
fn each_deed_is_done_and_told_with_its_author() {
    let rig = Rig::new();
    assert_eq!(rig.deed("assign", r#"{"assignee": "bob\r\nBcc: x"}"#).1["summary"]["assignee"], "bobBcc: x");
    rig.deed("note", r#"{"text": "looked at it"}"#);
    let (_, closed) = rig.deed("close", r#"{"reason": "false_positive", "text": "a test of ours"}"#);
    assert_eq!(
        (&closed["summary"]["state"], &closed["summary"]["resolution"]),
        (&json!("resolved"), &json!("false_positive"))
    );
    assert_eq!(closed["summary"]["resolved_by"], "alice");
    assert_eq!(rig.deed("close", r#"{"reason": "test"}"#).0, 409);
    assert_eq!(rig.deed("ack", "").0, 409);
    let (_, reopened) = rig.deed("reopen", "{}");
    assert_eq!((&reopened["summary"]["state"], &reopened["summary"]["reopenings"]), (&json!("reopened"), &json!(1)));
    let texts: Vec<&str> =
        reopened["timeline"].as_array().unwrap().iter().filter_map(|one| one["text"].as_str()).collect();
    for expected in [
        "assigned to bobBcc: x by alice",
        "alice: looked at it",
        "closed as false_positive by alice: a test of ours",
        "reopened by alice",
    ] {
        assert!(texts.contains(&expected), "{expected} in {texts:?}");
    }
}

#[test]
fn hostile_requests_are_refused_in_words_of_ours() {
    let rig = Rig::new();
    let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(BODY_BYTES_MAX));
    for (deed, body, status) in [
        ("close", r#"{"reason": "because"}"#, 400),
        ("close", "{}", 400),
        ("close", r#"{"reason": "merged"}"#, 400),
        ("note", r#"{"text": "\u0000 \u202e"}"#, 400),
        ("note", r#"{"text": "a", "by": "bob"}"#, 400),
        ("note", "[[[[", 400),
        ("note", &long, 413),
        ("merge", r#"{"into": "I-000000000000"}"#, 404),
        ("undo", "{}", 404),
    ] {
        let (got, answer) = rig.deed(deed, body);
        assert_eq!(got, status, "{deed} {body:.60}: {answer}");
        assert!(!answer.to_string().contains("xxx"), "{answer}");
    }
    for (method, path, status) in [
        ("GET", "/v1/incidents/I-000000000000", 404),
        ("GET", "/v1/incidents/..%2f..", 404),
        ("GET", "/v1/incidentsx", 404),
        ("GET", "/v1/incidents/", 404),
        ("DELETE", "/v1/incidents", 405),
        ("GET", "/v1/incidents?state=%00", 400),
        ("GET", "/v1/incidents?limit=9", 400),
        ("GET", "/", 404),
    ] {
        assert_eq!(rig.call(method, path, "").0, status, "{method} {path}");
    }
    let merge = format!(r#"{{"into": "{}"}}"#, rig.id);
    assert_eq!(rig.deed("merge", &merge).0, 409);
}

#[test]
fn looking_at_a_link_changes_nothing_and_using_it_works_once() {
    let rig = Rig::new();
    let link = rig.link();
    let before = rig.shown();
    let page = rig.open("GET", &link);
    assert_eq!((page.status, page.content_type), (200, "text/html; charset=utf-8"));
    assert!(page.body.contains("&lt;script&gt;") && !page.body.contains("<script"), "{}", page.body);
    assert!(page.body.contains(&principal_arn("")));
    for deed in ["ack", "assign", "note", "close", "merge"] {
        let path = rig.deed_link(&link, deed);
        let action = path.rsplit_once('/').unwrap().1.replace('&', "&amp;");
        assert!(page.body.contains(&format!("<form method=\"post\" action=\"{action}\">")), "{action}: {}", page.body);
        let status = if deed == "ack" { 200 } else { 405 };
        assert_eq!(rig.open("GET", &path).status, status, "{deed}");
        assert_eq!(rig.open("HEAD", &path).status, 405, "{deed}");
    }
    assert_eq!(rig.shown(), before, "scanners follow links");
    assert_eq!(rig.open("POST", &link).status, 200);
    assert_eq!(rig.shown()["summary"]["acknowledged_by"], "the link of a mail");
    let after = rig.shown();
    assert_eq!(rig.open("POST", &link).status, 410, "replayed");
    let page = rig.open("GET", &link);
    assert!(page.status == 200 && !page.body.contains("action=\"ack?"), "the rest is still to be had: {}", page.body);
    assert_eq!(rig.shown(), after);
}

#[test]
fn a_link_does_each_deed_once_and_says_so_in_the_timeline() {
    let rig = Rig::new();
    let link = rig.link();
    let post = |deed: &str, body: &str| rig.post(&rig.deed_link(&link, deed), body);
    let assigned = post("assign", "assignee=carol+%3Cb%3E%0D%0A");
    assert_eq!(assigned.status, 200);
    assert!(assigned.body.contains("carol &lt;b&gt;") && !assigned.body.contains("<b>"), "{}", assigned.body);
    assert!(!assigned.body.contains("action=\"assign?") && assigned.body.contains("action=\"note?"));
    assert_eq!(rig.shown()["summary"]["assignee"], "carol <b>");
    assert_eq!(post("note", "text=looked+at+it%3A+%C3%BC").status, 200);
    for again in [("assign", "assignee=mallory"), ("note", "text=x")] {
        assert_eq!(post(again.0, again.1).status, 410, "{again:?}");
    }
    let closed = post("close", "reason=false_positive&text=a+test+of+ours");
    assert!(closed.status == 200 && !closed.body.contains("<form"), "{}", closed.body);
    let texts = rig.texts();
    for expected in [
        "assigned to carol <b> by the link of a mail",
        "the link of a mail: looked at it: \u{fc}",
        "closed as false_positive by the link of a mail: a test of ours",
    ] {
        assert!(texts.iter().any(|text| text == expected), "{expected} in {texts:?}");
    }
    assert_eq!(post("merge", "into=I-000000000000").status, 409, "it is closed");
}

#[test]
fn a_link_merges_into_an_incident_that_its_reader_names_and_shows_nothing_of_it() {
    let rig = Rig::new();
    let other = rig.another("eve");
    let link = rig.link();
    let merge = rig.deed_link(&link, "merge");
    for (body, status) in [
        ("into=I-000000000000".to_owned(), 404),
        (format!("into={}", rig.id), 409),
        ("into=".to_owned(), 404),
        ("into=%3Cscript%3E".to_owned(), 404),
    ] {
        let refused = rig.post(&merge, &body);
        assert!(refused.status == status && !refused.body.contains("<script"), "{body}: {}", refused.body);
    }
    let merged = rig.post(&merge, &format!("into={other}"));
    assert!(merged.status == 200 && merged.body.contains(&other), "what was refused used nothing up: {}", merged.body);
    assert!(!merged.body.contains("eve") && !merged.body.contains("<form"), "{}", merged.body);
    assert_eq!(rig.shown()["summary"]["merged_into"], Value::String(other));
    assert_eq!(rig.post(&rig.deed_link(&link, "ack"), "").status, 409);
}

#[test]
fn forms_that_are_not_the_pages_own_change_nothing() {
    let rig = Rig::new();
    let link = rig.link();
    let before = rig.shown();
    let long = format!("text={}", "x".repeat(BODY_BYTES_MAX));
    for (deed, body, status) in [
        ("note", "", 400),
        ("note", "text=", 400),
        ("note", "text=%00%E2%80%AE", 400),
        ("note", "text=a&text=b", 400),
        ("note", "text=a&by=bob", 400),
        ("note", "{\"text\": \"a\"}", 400),
        ("note", "text=%ff", 400),
        ("note", &long, 413),
        ("ack", "by=bob", 400),
        ("assign", "assignee=+", 400),
        ("close", "reason=because&text=", 400),
        ("close", "reason=merged&text=", 400),
        ("close", "text=a&reason=benign", 400),
        ("reopen", "text=", 404),
        ("undo", "", 404),
        ("approve", "", 404),
    ] {
        assert_eq!(rig.post(&rig.deed_link(&link, deed), body).status, status, "{deed} {body:.40}");
    }
    let elsewhere = link.replace(&rig.id, &rig.another("eve"));
    for (deed, body) in
        [("assign", "assignee=a"), ("note", "text=a"), ("close", "reason=test&text="), ("merge", "into=a")]
    {
        let forged = rig.deed_link(&link, deed).replace("&m=", "&m=0");
        assert_eq!(rig.post(&forged, body).status, 403, "{deed}");
        assert_eq!(rig.post(&rig.deed_link(&elsewhere, deed), body).status, 403, "{deed}");
        let bare = rig.deed_link(&link, deed);
        assert_eq!(rig.post(bare.split_once('?').unwrap().0, body).status, 403, "{deed}");
    }
    rig.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    for (deed, body) in
        [("assign", "assignee=a"), ("note", "text=a"), ("close", "reason=test&text="), ("merge", "into=a")]
    {
        assert_eq!(rig.post(&rig.deed_link(&link, deed), body).status, 410, "{deed}");
    }
    assert_eq!(rig.shown(), before);
}

#[test]
fn altered_expired_and_outlived_links_are_refused() {
    let rig = Rig::new();
    let link = rig.link();
    let (head, mac) = link.rsplit_once("&m=").unwrap();
    let digit = if mac.starts_with('0') { '1' } else { '0' };
    let flipped = format!("{digit}{}", &mac[1..]);
    for altered in [
        format!("{head}&m={flipped}"),
        format!("{head}&m="),
        format!("{link}&x=1"),
        format!("{link}0"),
        link.replace("?e=", "?e=1"),
        link.replace("&n=0", "&n=1"),
        link.replace("&m=", "&m=%"),
        link.replace(&rig.id, "I-000000000000"),
        format!("{head}&m={}", mac.to_uppercase()),
    ] {
        assert_eq!(rig.open("POST", &altered).status, 403, "{altered}");
    }
    assert_eq!(rig.open("GET", "/i/x").status, 404);
    assert_eq!(rig.shown()["summary"]["acknowledged_by"], Value::Null);
    rig.deed("close", r#"{"reason": "benign"}"#);
    assert_eq!(rig.open("POST", &link).status, 409);
    rig.deed("reopen", "{}");
    assert_eq!(rig.open("POST", &link).status, 409, "an old mail does not speak for what came later");
    let fresh = rig.link();
    rig.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    assert_eq!(rig.open("POST", &fresh).status, 410);
    assert_eq!(rig.shown()["summary"]["acknowledged_by"], Value::Null);
}

#[test]
fn a_key_that_others_can_read_makes_no_links() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::new();
    let link = rig.link();
    let path = rig.dir.path().join("incident-link.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(rig.open("POST", &link).status, 500);
    let users = rig.dir.path().join(users::USERS_FILE);
    std::fs::set_permissions(users, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(rig.call("GET", "/v1/incidents", "").0, 500);
}

#[test]
fn settings_that_would_be_open_to_strangers_are_refused() {
    let read = |text: &str| toml::from_str::<settings::HttpSettings>(text).unwrap().fault();
    assert_eq!(read("listen = \"127.0.0.1:7650\"\npublic_url = \"https://soc.example.org\""), None);
    assert_eq!(read("listen = \"127.0.0.1:7650\"\npublic_url = \"http://127.0.0.1:7650\""), None);
    assert!(read("listen = \"0.0.0.0:7650\"").is_some());
    for url in ["http://soc.example.org", "https://", "https://a/?b", "ftp://a", "https://a/\\\"<"] {
        assert!(read(&format!("listen = \"127.0.0.1:1\"\npublic_url = \"{url}\"")).is_some(), "{url}");
    }
}
