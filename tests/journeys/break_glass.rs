//! The only administrator is quarantined: break-glass lifts it while the node runs, `quarantine lift` when it does not.

use crate::support::{ACCOUNT, Caller, Folder, keytrail, text};
use serde_json::json;

fn quarantine_admin(folder: &Folder, endpoint: &str) {
    let responder = Caller::new(endpoint, folder.profile("service-credentials", "responder"));
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
    let body = json!({ "PrincipalArn": arn, "TtlSeconds": 3600, "Reason": "journey" });
    responder.call("KeytrailService.PutQuarantine", body).expect("quarantine the administrator");
    let admin = Caller::new(endpoint, folder.administrator());
    assert_eq!(admin.call("CreateKey", json!({})).unwrap_err(), "AccessDeniedException");
}

#[test]
fn a_quarantined_administrator_is_freed_by_break_glass_or_on_a_stopped_node() {
    let folder = Folder::with_people();
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
    let up = folder.up(&[]);
    let endpoint = up.field("kms");
    quarantine_admin(&folder, &endpoint);
    let break_glass = Caller::new(&endpoint, folder.profile("break-glass", "break-glass"));
    break_glass.call("KeytrailService.LiftQuarantine", json!({ "PrincipalArn": arn })).expect("lift by break-glass");
    Caller::new(&endpoint, folder.administrator()).create_key(json!([]));

    quarantine_admin(&folder, &endpoint);
    let mut lift = keytrail();
    lift.args(["quarantine", "lift", &arn, "--reason", "locked out", "--data"]).arg(folder.path());
    let running = lift.output().unwrap();
    assert!(!running.status.success(), "a running node is not touched");
    assert!(text(&running.stderr).contains("lock"), "{}", text(&running.stderr));
    up.stop();
    let stopped = lift.output().unwrap();
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));

    let up = folder.up(&[]);
    Caller::new(&up.field("kms"), folder.administrator()).create_key(json!([]));
    up.stop();
    let rows = folder.sql("SELECT event_name FROM events WHERE event_name = 'LiftQuarantine' AND error_code IS NULL");
    assert_eq!(rows.len(), 2, "both lifts are events");
    folder.assert_verified();
}
