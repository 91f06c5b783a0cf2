//! What each part says about itself at `/readyz` and `/metrics`; docs/operations.md has an alarm for each metric.

use super::health::{Disk, Metrics, Report};
use keytrail_kms::calls::{CallCounts, SECONDS};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::journal::Reader;
use keytrail_kms::service::{RunningKms, Witnessed};
use keytrail_kms::ship::RunningShipper;
use keytrail_responder::self_test::{Outcome, SelfTest};
use keytrail_responder::status::{self, Latencies, ReceiverStatus, Status};
use keytrail_trail::service::RunningTrail;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What the key service says at `/readyz` and `/metrics`.
pub(super) fn kms(
    kms: &RunningKms,
    dir: &Path,
    stopping: &Arc<AtomicBool>,
    shipping: &Arc<Mutex<Weak<RunningShipper>>>,
) -> impl Fn() -> Report + Send + Sync + 'static {
    let (health, stopping, shipping) = (kms.health(), Arc::clone(stopping), Arc::clone(shipping));
    let (dir, disk) = (dir.to_owned(), Disk::of(dir));
    move || {
        let mut report = Report::default();
        let Some(health) = health().filter(|_| !stopping.load(Ordering::Relaxed)) else {
            report.trouble.push("stopping".to_owned());
            return report;
        };
        report.trouble = health.trouble;
        let metrics = &mut report.metrics;
        metrics.gauge(
            "keytrail_kms_ready",
            "1 if calls are answered as they should be",
            u8::from(report.trouble.is_empty()),
        );
        metrics.gauge("keytrail_kms_keys", "Keys", health.keys);
        metrics.counter("keytrail_log_durable_records", "Records of the log that are durable", health.durable_records);
        metrics.counter("keytrail_log_signed_records", "Records under the newest checkpoint", health.signed_records);
        let help = "Seconds since the oldest record that no checkpoint covers";
        metrics.gauge("keytrail_log_unsigned_seconds", help, format!("{:.3}", health.unsigned_s));
        if let Some(witnessed) = &health.witnessed {
            witnesses(metrics, witnessed);
        }
        if let Some(shipper) = shipping.lock().expect("nothing panics under it").upgrade() {
            metrics.counter("keytrail_log_shipped_records", "Records that Kafka has taken", shipper.lag().shipped_seq);
        }
        if let Some(ends_s) = health.certificate_ends_s {
            let help = "Unix time at which the certificate in use ends, or one that leads to its authority";
            metrics.gauge("keytrail_kms_certificate_ends_seconds", help, ends_s);
        }
        calls(metrics, &health.calls);
        disk.report(&dir, metrics);
        report
    }
}

fn witnesses(metrics: &mut Metrics, witnessed: &Witnessed) {
    let help = "Records under a checkpoint that the quorum of witnesses has cosigned";
    metrics.counter("keytrail_log_cosigned_records", help, witnessed.records);
    let help = "Seconds since the oldest record that no such checkpoint covers: the unwitnessed window";
    metrics.gauge("keytrail_log_unwitnessed_seconds", help, format!("{:.3}", witnessed.unwitnessed_s));
    let help = "Calls answered with an error because the quorum did not cover their record in time";
    metrics.counter("keytrail_kms_unwitnessed_replies_total", help, witnessed.replies_not_sent);
    let name = "keytrail_log_witness_records";
    metrics.begin(
        name,
        "gauge",
        "Records under the checkpoint that each witness cosigned last, by its place in the policy",
    );
    // Names in a policy are anyone's octets; the place is ours.
    for (place, witness) in (1..).zip(&witnessed.witnesses) {
        metrics.sample(name, &format!("witness=\"{place}\""), witness.cosigned.unwrap_or(0));
    }
}

fn calls(metrics: &mut Metrics, counts: &CallCounts) {
    let name = "keytrail_kms_calls_total";
    metrics.begin(name, "counter", "Answered calls by operation and outcome: OK or the event's error code");
    for (operation, outcomes) in &counts.by_operation {
        for (code, count) in outcomes {
            metrics.sample(name, &format!("operation=\"{operation}\",code=\"{code}\""), count);
        }
    }
    let name = "keytrail_kms_call_seconds";
    metrics.begin(name, "histogram", "From a request's head to its durable answer");
    let mut below = 0;
    for (bound, count) in SECONDS.iter().zip(counts.buckets) {
        below += count;
        metrics.sample(&format!("{name}_bucket"), &format!("le=\"{bound}\""), below);
    }
    metrics.sample(&format!("{name}_bucket"), "le=\"+Inf\"", counts.count);
    metrics.sample(&format!("{name}_sum"), "", counts.seconds).sample(&format!("{name}_count"), "", counts.count);
}

/// What the trail says at `/readyz` and `/metrics`.
pub(super) fn trail(trail: &RunningTrail, dir: &Path) -> impl Fn() -> Report + Send + Sync + 'static {
    let (status, dir) = (trail.status(), dir.to_owned());
    move || {
        let mut report = Report::default();
        // The loop is gone when nobody sends any more.
        if status.has_changed().is_err() {
            report.trouble.push("stopping".to_owned());
        }
        let status = status.borrow().clone();
        let judged = status.positions.values().copied().max().unwrap_or(0);
        let metrics = &mut report.metrics;
        metrics.counter("keytrail_trail_judged_records", "Records that passed the rules", judged);
        metrics.counter("keytrail_trail_alerts_total", "Alerts and revisions stored since the start", status.alerts);
        metrics.gauge("keytrail_trail_rules", "Rules running", status.rules);
        // On the key service's own machine; elsewhere compare with its keytrail_log_durable_records.
        if let Ok(durable) = Reader::open(&dir.join("journal"), 0).and_then(|reader| reader.durable()) {
            let behind = durable.saturating_sub(judged);
            metrics.gauge("keytrail_trail_behind_records", "Durable records that did not pass the rules yet", behind);
        }
        report
    }
}

/// What the responder says at `/metrics`. `disables_max`: keys an hour before its circuit breaker holds the next one.
/// `failing_bound`: how long a receiver of notices may fail before this part is degraded.
pub(super) fn responder(
    dir: &Path,
    disables_max: u32,
    failing_bound: Duration,
) -> impl Fn() -> Report + Send + Sync + 'static {
    let dir = dir.to_owned();
    move || {
        let mut report = Report::default();
        let now_us = i64::try_from(SystemClock.now_us()).unwrap_or(i64::MAX);
        match status::read(&dir, now_us) {
            Ok(status) => {
                told(&mut report.metrics, &status, disables_max, now_us);
                report.degraded = notices(&mut report.metrics, &status, now_us, failing_bound);
            }
            Err(error) => report.trouble.push(format!("responder.db cannot be read: {error}")),
        }
        report
    }
}

fn told(metrics: &mut Metrics, status: &Status, disables_max: u32, now_us: i64) {
    for (name, help, states) in [
        ("keytrail_responder_incidents", "Incidents by state", &status.incidents),
        ("keytrail_responder_actions", "Actions by state", &status.actions),
        ("keytrail_responder_notices", "Notices by state: ready waits, dead was given up", &status.notices),
    ] {
        metrics.begin(name, "gauge", help);
        for (state, count) in states {
            metrics.sample(name, &format!("state=\"{state}\""), count);
        }
    }
    let name = "keytrail_responder_incidents_open";
    metrics.begin(name, "gauge", "Incidents that nobody has closed, by severity");
    for (severity, count) in &status.open {
        metrics.sample(name, &format!("severity=\"{severity}\""), count);
    }
    let help = "Age of the oldest action that is ready or whose call is out; 0 if there is none";
    let oldest_us = status.oldest_us.map_or(0, |at_us| now_us.saturating_sub(at_us).max(0));
    metrics.gauge("keytrail_responder_outbox_oldest_seconds", help, format!("{:.3}", oldest_us as f64 / 1e6));
    let help = "Actions of open incidents that wait for a person's decision";
    metrics.gauge("keytrail_responder_actions_held", help, status.held);
    let help = "Keys disabled within an hour, as the circuit breaker counts them";
    metrics.gauge("keytrail_responder_keys_disabled_hour", help, status.disables_last_hour);
    let help = "Keys disabled within an hour at which the circuit breaker holds the next one";
    metrics.gauge("keytrail_responder_keys_disabled_hour_max", help, disables_max);
    let help = "1 while somebody has paused the responder";
    metrics.gauge("keytrail_responder_paused", help, u64::from(status.paused));
    let help = "Circuit breakers that are tripped, of playbooks and of the whole responder";
    metrics.gauge("keytrail_responder_breakers_tripped", help, status.tripped);
    metrics.counter("keytrail_responder_alerts_refused_total", "Alerts that did not verify", status.alerts_refused);
    let help = "From an alert's first event until it was raised";
    latencies(metrics, "keytrail_detection_latency_seconds", help, &status.detection);
    let help = "From an incident's first event until an action's effect was read back";
    latencies(metrics, "keytrail_containment_latency_seconds", help, &status.containment);
    let help = "From an incident's opening until somebody acknowledged it first";
    latencies(metrics, "keytrail_acknowledgement_latency_seconds", help, &status.acknowledgement);
    if let Some(test) = &status.self_test {
        self_test(metrics, test);
    }
}

fn latencies(metrics: &mut Metrics, name: &str, help: &str, found: &Latencies) {
    metrics.begin(name, "histogram", help);
    for (bound, below) in &found.below {
        metrics.sample(&format!("{name}_bucket"), &format!("le=\"{bound}\""), below);
    }
    metrics.sample(&format!("{name}_bucket"), "le=\"+Inf\"", found.count);
    metrics.sample(&format!("{name}_sum"), "", found.seconds).sample(&format!("{name}_count"), "", found.count);
}

fn self_test(metrics: &mut Metrics, test: &SelfTest) {
    let help = "1 if the newest self-test was detected, and contained where playbooks act";
    metrics.gauge("keytrail_self_test_ok", help, u8::from(test.outcome != Outcome::Failed));
    metrics.gauge("keytrail_self_test_at_seconds", "Unix time of the newest self-test", test.at_micros / 1_000_000);
    let name = "keytrail_self_test_seconds";
    metrics.begin(name, "gauge", "What the stages of the newest self-test took");
    let stages =
        [("detected", test.detected_micros), ("contained", test.contained_micros), ("undone", test.undone_micros)];
    for (stage, micros) in stages {
        if let Some(micros) = micros {
            metrics.sample(name, &format!("stage=\"{stage}\""), micros as f64 / 1e6);
        }
    }
}

/// What became of notices; gives the receivers that have been failing for too long.
fn notices(metrics: &mut Metrics, status: &Status, now_us: i64, failing_bound: Duration) -> Vec<String> {
    let failing = |receiver: &ReceiverStatus| {
        let since_us = receiver.failing_us.map_or(0, |since_us| now_us.saturating_sub(since_us));
        Duration::from_micros(u64::try_from(since_us).unwrap_or(0))
    };
    let name = "keytrail_responder_receiver_failing_seconds";
    metrics.begin(name, "gauge", "Seconds for which nothing could be delivered to a receiver of notices");
    for receiver in &status.receivers {
        metrics.sample(name, &format!("receiver=\"{}\"", receiver.name), failing(receiver).as_secs());
    }
    let name = "keytrail_responder_receiver_waiting";
    metrics.begin(name, "gauge", "Notices that wait for a receiver");
    for receiver in &status.receivers {
        metrics.sample(name, &format!("receiver=\"{}\"", receiver.name), receiver.waiting);
    }
    let name = "keytrail_responder_dead_letters_total";
    metrics.begin(name, "counter", "Notices that were given up, by receiver");
    for receiver in &status.receivers {
        metrics.sample(name, &format!("receiver=\"{}\"", receiver.name), receiver.dead);
    }
    metrics.gauge("keytrail_responder_silences", "Silences that hold now", status.silences);
    let help = "Notices that silences or worse incidents hold back now";
    metrics.gauge("keytrail_responder_notices_muted", help, status.notices_muted);
    let help = "Incidents that were escalated because nobody acknowledged them";
    metrics.counter("keytrail_responder_notices_escalated_total", help, status.notices_escalated);
    let help = "Notices that went to the receiver of last resort";
    metrics.counter("keytrail_responder_notices_rescued_total", help, status.notices_rescued);
    let long = status.receivers.iter().filter(|receiver| failing(receiver) > failing_bound);
    long.map(|receiver| format!("receiver {} fails since {} s", receiver.name, failing(receiver).as_secs())).collect()
}
