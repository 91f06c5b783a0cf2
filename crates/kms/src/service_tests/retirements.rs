//! Retiring a key: nobody calls and it goes, somebody calls and it comes back, at each step and over restarts.

use super::*;
use crate::key::DAY_US;

const DAY: Duration = Duration::from_micros(DAY_US);

/// A service on a clock that the test moves, called by break-glass through requests signed for that clock.
struct Desk {
    fixture: Fixture,
    clock: Arc<FakeClock>,
}

impl Desk {
    async fn new() -> Self {
        let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
        let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
        fixture.stop().await;
        fixture.append_identities(&user(ACCOUNT, "keeper", "[\"AdministratorAccess\"]"));
        fixture.start().await.unwrap();
        Self { fixture, clock }
    }

    async fn by(&self, name: &str, target: &str, body: Value) -> Result<Value, String> {
        let signing = Some((&user_credentials(name), REGION, "kms", self.fixture.clock.now_us()));
        let (status, text) =
            raw(&self.fixture, &[("x-amz-target", target)], body.to_string().as_bytes(), signing).await;
        let answer: Value = if text.is_empty() { json!({}) } else { serde_json::from_str(&text).unwrap() };
        if status == 200 { Ok(answer) } else { Err(answer["__type"].as_str().unwrap().to_owned()) }
    }

    async fn call(&self, target: &str, body: Value) -> Result<Value, String> {
        self.by("keeper", target, body).await
    }

    async fn key(&self) -> String {
        let made = self.call("TrentService.CreateKey", json!({})).await.unwrap();
        made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    async fn state(&self, key: &str) -> String {
        let described = self.call("TrentService.DescribeKey", json!({"KeyId": key})).await;
        described.map_or_else(|code| code, |key| key["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned())
    }

    fn details(&self, name: &str) -> Vec<Value> {
        let events = self.fixture.events().into_iter().filter(|(_, event)| event.event_name == name);
        events.map(|(_, event)| event.additional_event_data.more["serviceEventDetails"].clone()).collect()
    }

    async fn seen(&self, name: &str, times: usize) {
        wait_until(|| self.details(name).len() == times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_calls_is_watched_scheduled_warned_of_and_deleted() {
    let mut desk = Desk::new().await;
    let key = desk.key().await;
    let body = json!({"KeyId": key, "WatchDays": 7, "PendingWindowInDays": 10});
    let retired = desk.call("KeytrailService.RetireKey", body.clone()).await.unwrap();
    assert_eq!((retired["Step"].as_str(), desk.state(&key).await.as_str()), (Some("watching"), "Disabled"));
    assert_eq!(desk.call("KeytrailService.RetireKey", body).await, Err("KMSInvalidStateException".into()));
    // Whoever may not use it does not count.
    let encrypt = json!({"KeyId": key, "Plaintext": "eA=="});
    assert_eq!(desk.by("powerless", "TrentService.Encrypt", encrypt).await, Err("AccessDeniedException".into()));
    desk.fixture.stop().await;
    desk.fixture.start().await.unwrap();
    desk.clock.advance(7 * DAY);
    desk.seen("ScheduleRetiredKeyDeletion", 1).await;
    assert_eq!(desk.state(&key).await, "PendingDeletion");
    let listed = desk.call("KeytrailService.ListRetirements", json!({})).await.unwrap();
    assert_eq!(
        (&listed["Retirements"][0]["Step"], &listed["Retirements"][0]["KeyId"]),
        (&json!("scheduled"), &json!(key))
    );
    desk.clock.advance(3 * DAY);
    desk.seen("WarnOfKeyDeletion", 1).await;
    desk.fixture.stop().await;
    desk.fixture.start().await.unwrap();
    desk.clock.advance(6 * DAY);
    desk.seen("WarnOfKeyDeletion", 2).await;
    let days: Vec<u64> =
        desk.details("WarnOfKeyDeletion").iter().map(|told| told["daysLeft"].as_u64().unwrap()).collect();
    assert_eq!(days, [7, 1]);
    desk.clock.advance(DAY);
    desk.seen("DeleteKey", 1).await;
    assert_eq!(desk.state(&key).await, "NotFoundException");
    let listed = desk.call("KeytrailService.ListRetirements", json!({})).await.unwrap();
    assert_eq!(listed["Retirements"], json!([]));
    desk.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_still_calls_brings_the_key_back() {
    let mut desk = Desk::new().await;
    for days in [0, 8] {
        let key = desk.key().await;
        let encrypt = json!({"KeyId": key, "Plaintext": "eA=="});
        let scheduled = desk.details("ScheduleRetiredKeyDeletion").len();
        desk.call("KeytrailService.RetireKey", json!({"KeyId": key})).await.unwrap();
        if days > 0 {
            desk.clock.advance(days * DAY);
            desk.seen("ScheduleRetiredKeyDeletion", scheduled + 1).await;
        }
        let ended = desk.details("EndRetirement").len();
        let code = desk.call("TrentService.Encrypt", encrypt.clone()).await.unwrap_err();
        assert_eq!(code, if days == 0 { "DisabledException" } else { "KMSInvalidStateException" });
        desk.seen("EndRetirement", ended + 1).await;
        let told = desk.details("EndRetirement").pop().unwrap();
        assert_eq!((&told["reason"], &told["operation"]), (&json!("used"), &json!("Encrypt")));
        assert_eq!(told["principalArn"], format!("arn:aws:iam::{ACCOUNT}:user/keeper"));
        desk.call("TrentService.Encrypt", encrypt).await.unwrap();
    }
    desk.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_calls_it_off_or_takes_the_key_in_hand() {
    let mut desk = Desk::new().await;
    let key = desk.key().await;
    let named = json!({"KeyId": key});
    assert_eq!(
        desk.call("KeytrailService.CancelRetirement", named.clone()).await,
        Err("KMSInvalidStateException".into())
    );
    desk.call("KeytrailService.RetireKey", named.clone()).await.unwrap();
    desk.call("KeytrailService.CancelRetirement", named.clone()).await.unwrap();
    assert_eq!(desk.state(&key).await, "Enabled");
    desk.call("KeytrailService.RetireKey", named.clone()).await.unwrap();
    desk.call("TrentService.EnableKey", named.clone()).await.unwrap();
    desk.seen("EndRetirement", 1).await;
    assert_eq!(desk.details("EndRetirement")[0]["reason"], "changed");
    assert_eq!(desk.state(&key).await, "Enabled");

    // Under dual control it waits for a second person.
    let tags = json!([{"TagKey": "keytrail:dual-control", "TagValue": "required"}]);
    desk.call("TrentService.TagResource", json!({"KeyId": key, "Tags": tags})).await.unwrap();
    assert_eq!(desk.call("KeytrailService.RetireKey", named).await, Err("AccessDeniedException".into()));
    assert_eq!(desk.state(&key).await, "Enabled");
    desk.fixture.stop().await;
}
