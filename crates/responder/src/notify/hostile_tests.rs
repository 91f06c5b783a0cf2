//! Every receiver over HTTP against a server that means no good: nothing hangs, nothing is followed, nothing is taken
//! for a success that is none.
#![allow(clippy::unwrap_used)]

use crate::config::{Settings, WebhookSettings};
use crate::notify::receivers::{HookSettings, PagerDutySettings, ReceiverSettings, SnsSettings};
use crate::notify::{Channel, DeliveryError};
use crate::testing::{Behaviour, Hostile, HttpSink, notice};
use keytrail_kms::clock::{Clock, FakeClock};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// One deadline for all of a delivery: what never ends must end by it.
const TIMEOUT: Duration = Duration::from_millis(700);
const EVERY: [&str; 5] = ["pagerduty", "slack", "sns", "teams", "webhook"];

/// A channel of each kind, all at this address.
fn channels(url: &str, dir: &Path) -> Vec<Arc<dyn Channel>> {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (secret_file, url_file) = (file("secret", "0123456789abcdef0123456789abcdef\n"), file("url", url));
    let (timeout, ca_file) = (TIMEOUT, None);
    let hook = HookSettings { url_file, ca_file: None, timeout };
    let receivers = [
        ReceiverSettings::PagerDuty(PagerDutySettings {
            routing_key_file: secret_file.clone(),
            url: url.into(),
            ca_file: None,
            timeout,
        }),
        ReceiverSettings::Slack(hook.clone()),
        ReceiverSettings::Sns(SnsSettings {
            url: url.into(),
            topic_arn: "arn:aws:sns:us-east-1:111122223333:keytrail".into(),
            secret_file: Some(secret_file.clone()),
            ca_file: None,
            timeout,
        }),
        ReceiverSettings::Teams(hook),
        ReceiverSettings::Webhook(WebhookSettings { url: url.into(), secret_file, ca_file, timeout }),
    ];
    let receivers = EVERY.iter().map(|name| (*name).to_owned()).zip(receivers).collect();
    let clock: Arc<dyn Clock> = Arc::new(FakeClock::default());
    Settings { receivers, ..Settings::default() }.channels(&clock).unwrap()
}

/// What a delivery came to: `taken`, `later`, `after N` or `never`.
async fn outcomes(url: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for channel in channels(url, dir.path()) {
        let one = notice("{\"event_action\":\"trigger\"}");
        let result = tokio::time::timeout(TIMEOUT * 10, channel.deliver(&one)).await.expect("a delivery without end");
        let word = match result {
            Ok(()) => "taken".into(),
            Err(DeliveryError::Later(reason)) => {
                assert!(!reason.contains("/services/"), "an address is told: {reason}");
                "later".into()
            }
            Err(DeliveryError::After(_, wait)) => format!("after {}", wait.as_secs()),
            Err(DeliveryError::Never(_)) => "never".into(),
        };
        found.push((channel.name().to_owned(), word));
    }
    found
}

async fn under(behaviour: Behaviour) -> Vec<(String, String)> {
    let server = Hostile::start(behaviour).await;
    outcomes(&format!("http://127.0.0.1:{}/services/secret/enqueue", server.port)).await
}

fn all(word: &str) -> Vec<(String, String)> {
    EVERY.iter().map(|name| ((*name).to_owned(), word.to_owned())).collect()
}

fn answer(status: &str, headers: &str, body: &str) -> Behaviour {
    Behaviour::Answers(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_or_broken_off_is_tried_again() {
    for behaviour in [
        Behaviour::Silent,
        Behaviour::Drips,
        Behaviour::Resets,
        Behaviour::ResetsAtOnce,
        Behaviour::Garbage,
        answer("503 Busy", "", ""),
        answer("500 Oh", "", "x"),
        answer("408 Slow", "", ""),
    ] {
        assert_eq!(under(behaviour.clone()).await, all("later"), "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_within_bounds() {
    assert_eq!(under(answer("429 Slow down", "retry-after: 7\r\n", "")).await, all("after 7"));
    assert_eq!(under(answer("503 Busy", "retry-after: 999999999\r\n", "")).await, all("after 3600"));
    assert_eq!(under(answer("429 Slow down", "retry-after: soon\r\n", "")).await, all("later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_for_good_is_not_asked_again() {
    for status in ["400 Bad", "401 Who", "403 No", "404 Where", "410 Gone", "413 Big"] {
        assert_eq!(under(answer(status, "", "")).await, all("never"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let elsewhere = HttpSink::start().await;
    for location in [format!("http://127.0.0.1:{}/", elsewhere.port), "http://169.254.169.254/".into()] {
        for status in ["301 There", "302 There", "307 There", "308 There"] {
            let found = under(answer(status, &format!("location: {location}\r\n"), "")).await;
            assert_eq!(found, all("never"), "{status}");
        }
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_receiver_has_its_own_success() {
    let of = |word: &str, takers: &[&str]| -> Vec<(String, String)> {
        all(word)
            .into_iter()
            .map(|(name, word)| if takers.contains(&name.as_str()) { (name, "taken".into()) } else { (name, word) })
            .collect()
    };
    assert_eq!(under(answer("200 OK", "", "ok")).await, of("later", &["slack", "sns", "teams", "webhook"]));
    // Slack tells errors in the body of a 200; PagerDuty's success is 202 alone.
    assert_eq!(under(answer("200 OK", "", "no_service")).await, of("later", &["sns", "teams", "webhook"]));
    assert_eq!(under(answer("202 Accepted", "", "ok")).await, of("later", &["pagerduty", "sns", "teams", "webhook"]));
    // A body without end is left where it is; for Slack it is not the word.
    assert_eq!(under(Behaviour::Endless).await, of("later", &["sns", "teams", "webhook"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tls_is_no_success_and_sends_nothing() {
    for behaviour in [Behaviour::Garbage, answer("200 OK", "", "ok"), Behaviour::Silent] {
        let server = Hostile::start(behaviour).await;
        assert_eq!(outcomes(&format!("https://127.0.0.1:{}/x", server.port)).await, all("later"));
        assert!(server.calls() >= EVERY.len());
    }
    let gone = Hostile::start(Behaviour::Silent).await.port;
    assert_eq!(outcomes(&format!("http://127.0.0.1:{gone}/x")).await, all("later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_put_in_at_delivery_only() {
    let sink = HttpSink::start().await;
    let dir = tempfile::tempdir().unwrap();
    let duty = channels(&format!("http://127.0.0.1:{}/v2/enqueue", sink.port), dir.path()).remove(0);
    let _ = duty.deliver(&notice("{\"event_action\":\"trigger\"}")).await;
    let _ = duty.deliver(&notice("{\"payload\":{}}")).await;
    let requests = sink.requests();
    assert!(requests[0].starts_with("POST /v2/enqueue ") && requests[1].starts_with("POST /v2/change/enqueue "));
    assert!(requests.iter().all(|request| request.contains("\"routing_key\":\"0123456789abcdef0123456789abcdef\"")));
}
