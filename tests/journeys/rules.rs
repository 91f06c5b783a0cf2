//! The trail is killed in mid-window, again and again: the alerts are those of a run that was never disturbed, as
//! `rules backtest` finds them in the lake.

use crate::support::{Caller, Folder, Running, keytrail, signal, text, wait_for};
use serde_json::{Value, json};

/// One part of the service on a folder, in a process of its own.
pub(crate) fn part(folder: &Folder, name: &str) -> Running {
    let mut command = keytrail();
    command.args([name, "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    Running::start(&mut command)
}

#[test]
fn killed_in_mid_window_the_trail_raises_the_alerts_that_a_backtest_finds() {
    let folder = Folder::with_people();
    let kms = part(&folder, "kms");
    let endpoint = kms.field("kms");
    let admin = Caller::new(&endpoint, folder.administrator());
    let (app, powerless) = (Caller::person(&endpoint, "app"), Caller::person(&endpoint, "outsider"));
    let key = admin.create_key(json!([]));
    let blobs: Vec<(String, Value)> = (0..24)
        .map(|tenant| {
            let context = json!({ "tenant": tenant.to_string() });
            (app.encrypt(&key, &context), context)
        })
        .collect();
    // Neither 12 refusals nor 24 contexts are complete between two kills.
    for chunk in blobs.chunks(6) {
        let trail = part(&folder, "trail");
        for (blob, context) in chunk {
            app.decrypt(blob, context).expect("decrypt");
        }
        for (blob, context) in chunk.iter().take(3) {
            powerless.decrypt(blob, context).expect_err("refused");
        }
        signal(trail.child.id(), "KILL");
    }
    let trail = part(&folder, "trail");
    let raised =
        "SELECT DISTINCT rule_id FROM alerts WHERE rule_id IN ('denied-burst', 'many-contexts') ORDER BY rule_id";
    let both = [json!({ "rule_id": "denied-burst" }), json!({ "rule_id": "many-contexts" })];
    wait_for("both alerts", || (folder.sql(raised) == both).then_some(()));
    trail.stop();
    kms.stop();
    let out =
        keytrail().args(["rules", "backtest", "--json", "--data"]).arg(folder.path()).output().expect("run backtest");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines: Vec<Value> = text(&out.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let live = &lines.last().expect("a summary")["live"];
    assert_eq!((&live["missing"], &live["extra"], &live["severity"]), (&json!([]), &json!([]), &json!([])), "{live}");
    assert!(live["same"].as_u64().is_some_and(|same| same >= 2), "{live}");
    let sweep = lines.iter().find(|line| line["ruleId"] == "many-contexts").expect("the sweep");
    assert!(sweep["entities"]["principal_arn"].as_str().is_some_and(|arn| arn.ends_with("user/app")), "{sweep}");
}

#[test]
fn a_site_raises_and_lowers_thresholds_in_one_file_and_nothing_else_changes() {
    let folder = Folder::with_people();
    folder.up(&[]).stop();
    let params = folder.path().join("rules/params.toml");
    std::fs::write(&params, "[decrypt-spike]\nfloor = 2000\n\n[many-contexts]\nlimit = 5\n").expect("write params");
    let out = keytrail().args(["rules", "test", "--rule", "many-contexts"]).arg(folder.path().join("rules")).output();
    assert!(out.expect("run the tests").status.success(), "they are about what the rules say");
    let up = folder.up(&[]);
    let endpoint = up.field("kms");
    let (admin, app) = (Caller::new(&endpoint, folder.administrator()), Caller::person(&endpoint, "app"));
    let key = admin.create_key(json!([]));
    for tenant in 0..5 {
        let context = json!({ "tenant": tenant.to_string() });
        app.decrypt(&app.encrypt(&key, &context), &context).expect("decrypt");
    }
    let raised = "SELECT DISTINCT rule_id FROM alerts WHERE rule_id = 'many-contexts'";
    wait_for("the alert", || (folder.sql(raised).len() == 1).then_some(()));
    up.stop();
}
