//! Announced changes: who may tell them, what they keep of their announcer, and that they outlive a restart.

use super::*;

/// Unix seconds, an hour from now.
pub(super) fn in_an_hour() -> u64 {
    SystemClock.now_us() / 1_000_000 + 3_600
}

fn announcement(key: &str) -> Value {
    json!({"Ticket": "CHG-7", "KeyId": key, "Operations": ["PutKeyPolicy", "DisableKey"], "Until": in_an_hour()})
}

async fn listed(client: &Client) -> Vec<Value> {
    ok(client, "KeytrailService.ListChanges", json!({})).await.body["Changes"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_is_an_event_that_the_responder_reads_and_a_restart_keeps() {
    let mut fixture = Fixture::new().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let key = create_key(&admin).await;
    let answer = ok(&admin, "KeytrailService.AnnounceChange", announcement(&key)).await;
    let event = fixture.event(answer.seq.unwrap());
    let image = event.additional_event_data.after.unwrap();
    assert_eq!(answer.body["ChangeId"], event.event_id);
    assert_eq!((event.event_source.as_str(), event.read_only), ("keytrail.internal", false));
    let by = format!("arn:aws:iam::{ACCOUNT}:user/administrator");
    assert_eq!((&image["announcedBy"], &image["announcedAs"]), (&json!(by), &json!([by])));
    assert_eq!(image["keyArn"], key);
    assert_eq!(listed(&responder).await, std::slice::from_ref(&image));
    assert!(listed(&fixture.user("neighbour")).await.is_empty(), "another account's announcements");

    fixture.stop().await;
    fixture.start().await.unwrap();
    let (admin, responder) = (fixture.admin(), fixture.responder());
    assert_eq!(listed(&responder).await, std::slice::from_ref(&image));
    let withdraw = json!({"ChangeId": image["changeId"], "Reason": "done early"});
    let stranger = refused(&fixture.user("neighbour"), "KeytrailService.WithdrawChange", withdraw.clone()).await;
    assert_eq!(stranger.0, "NotFoundException");
    ok(&admin, "KeytrailService.WithdrawChange", withdraw.clone()).await;
    let ended = listed(&responder).await.remove(0);
    assert!(ended["untilMicros"].as_u64() < image["untilMicros"].as_u64(), "it ends, what was done stays announced");
    assert_eq!(refused(&admin, "KeytrailService.WithdrawChange", withdraw).await.0, "NotFoundException");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_bounded_change_of_ones_own_is_refused() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let cases = [
        json!({"Ticket": ""}),
        json!({"Ticket": "two\nlines"}),
        json!({"Ticket": "x".repeat(129)}),
        json!({"Operations": []}),
        json!({"Operations": ["DropTable"]}),
        json!({"Until": 1}),
        json!({"Until": in_an_hour() + 32 * 86_400}),
        json!({"From": in_an_hour() + 1}),
        json!({"PrincipalArn": format!("arn:aws:iam::{ACCOUNT}:user/x")}),
        json!({"KeyId": null}),
        json!({"KeyId": null, "PrincipalArn": format!("arn:aws:iam::{ACCOUNT}:root")}),
        json!({"KeyId": null, "PrincipalArn": format!("arn:aws:iam::{ACCOUNT}:keytrail/break-glass")}),
        json!({"KeyId": null, "PrincipalArn": "arn:aws:iam::999999999999:user/x"}),
    ];
    for case in cases {
        let mut body = announcement(&key);
        for (name, value) in case.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (code, _) = refused(&admin, "KeytrailService.AnnounceChange", body.clone()).await;
        assert_eq!(code, "ValidationException", "{body}");
    }
    assert!(listed(&admin).await.is_empty());
    for target in ["KeytrailService.AnnounceChange", "KeytrailService.WithdrawChange"] {
        assert_eq!(
            refused(&fixture.responder(), target, announcement(&key)).await.0,
            "AccessDeniedException",
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_announcements_than_an_answer_holds_come_page_by_page() {
    let fixture = Fixture::new().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let key = create_key(&admin).await;
    for _ in 0..51 {
        ok(&admin, "KeytrailService.AnnounceChange", announcement(&key)).await;
    }
    let first = ok(&responder, "KeytrailService.ListChanges", json!({})).await.body;
    assert_eq!(first["Changes"].as_array().unwrap().len(), 50);
    let rest = ok(&responder, "KeytrailService.ListChanges", json!({"Marker": first["NextMarker"]})).await.body;
    assert_eq!((rest["Changes"].as_array().unwrap().len(), &rest["NextMarker"]), (1, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responder_reports_itself_and_counts_keys_and_nobody_else_does() {
    let fixture = Fixture::new().await;
    let (admin, responder) = (fixture.admin(), fixture.responder());
    let key = create_key(&admin).await;
    create_key(&admin).await;
    ok(&admin, "TrentService.DisableKey", json!({"KeyId": key})).await;
    assert_eq!(ok(&responder, "KeytrailService.CountKeys", json!({})).await.body["Enabled"], 1);
    let pause = json!({"EntryId": 4, "Kind": "pause", "Subject": "*", "By": "ann (uid 1)", "Reason": "migration"});
    let answer = ok(&responder, "KeytrailService.ReportResponder", pause.clone()).await;
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(event.request_parameters.unwrap()["by"], "ann (uid 1)");
    assert!(event.read_only);
    for target in ["KeytrailService.ReportResponder", "KeytrailService.CountKeys"] {
        assert_eq!(refused(&admin, target, pause.clone()).await.0, "AccessDeniedException", "{target}");
    }
}
