//! What each part says about itself at `/readyz` and `/metrics`; docs/operations.md has an alarm for each metric.

use super::health::{Disk, Metrics, Report};
use keytrail_kms::calls::{CallCounts, SECONDS};
use keytrail_kms::journal::Reader;
use keytrail_kms::service::RunningKms;
use keytrail_kms::ship::RunningShipper;
use keytrail_trail::service::RunningTrail;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Incidents counted for the metrics.
const INCIDENTS_MAX: u32 = 1_000;

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
        if let Some(shipper) = shipping.lock().expect("nothing panics under it").upgrade() {
            metrics.counter("keytrail_log_shipped_records", "Records that Kafka has taken", shipper.lag().shipped_seq);
        }
        calls(metrics, &health.calls);
        disk.report(&dir, metrics);
        report
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

/// What the responder says at `/metrics`.
pub(super) fn responder(dir: &Path) -> impl Fn() -> Report + Send + Sync + 'static {
    let dir = dir.to_owned();
    move || {
        let mut report = Report::default();
        match keytrail_responder::incident::list(&dir, INCIDENTS_MAX) {
            Ok(incidents) => {
                let mut states = BTreeMap::new();
                for incident in incidents {
                    *states.entry(incident.state.as_str()).or_insert(0) += 1;
                }
                let name = "keytrail_responder_incidents";
                report.metrics.begin(name, "gauge", "The newest thousand incidents by state");
                for (state, count) in states {
                    report.metrics.sample(name, &format!("state=\"{state}\""), count);
                }
            }
            Err(error) => report.trouble.push(format!("incidents cannot be read: {error}")),
        }
        report
    }
}
