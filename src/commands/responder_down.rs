//! The trail's own word to people, for the one thing that the responder cannot tell them: that it does not report any more.
//!
//! Looks for alerts of the rule `responder-down` in trail.db and pages the receivers of `[responder]` itself, past the
//! responder's store and without its routing. Tried again until one of them took it; after a restart of the trail what is
//! younger than an hour is told once more.

use anyhow::Context as _;
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_responder::Settings;
use keytrail_responder::notify::probe;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const RULE: &str = "responder-down";
/// Between two looks, and two attempts.
const LOOK: Duration = Duration::from_secs(5);
/// Older alerts were told before the trail was started, or are past telling.
const YOUNG_US: i64 = 3_600_000_000;
/// Most alerts of one look.
const ALERTS_MAX: i64 = 1_000;

/// Never ends.
pub(super) async fn tell_people(dir: PathBuf, settings: Settings) {
    let (mut next, mut waiting) = (0, None);
    loop {
        match look(&dir, &mut next).await {
            Ok(found) => waiting = found.or(waiting),
            Err(error) => tracing::warn!("whether the responder is down cannot be read: {error:#}"),
        }
        if let Some(text) = &waiting
            && is_told(&settings, text).await
        {
            waiting = None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The text of the newest alert from this position on, which moves behind what was read.
async fn look(dir: &Path, next: &mut i64) -> anyhow::Result<Option<String>> {
    let (file, from) = (dir.join("trail.db"), *next);
    let (alerts, end) = tokio::task::spawn_blocking(move || read(&file, from)).await.context("join the look")??;
    *next = end;
    let mut found = None;
    for json in alerts {
        let alert: Value = serde_json::from_slice(&json).context("read an alert")?;
        if alert["ruleId"] == RULE && alert["revision"] == 0 {
            found = Some(text(&alert));
        }
    }
    Ok(found)
}

/// The alerts that may be of the rule, and the position behind all: in a storm there are many others, with their evidence.
fn read(file: &Path, from: i64) -> anyhow::Result<(Vec<Vec<u8>>, i64)> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).context("open trail.db")?;
    db.busy_timeout(LOOK).context("open trail.db")?;
    let end: i64 = db
        .query_row("SELECT coalesce(max(position), 0) + 1 FROM alerts", [], |row| row.get(0))
        .context("read trail.db")?;
    let young_us = SystemClock.now_us().cast_signed().saturating_sub(YOUNG_US);
    let named = format!("\"ruleId\":\"{RULE}\"");
    let sql = "SELECT json FROM alerts WHERE position >= ?1 AND position < ?2 AND created_us >= ?3
                 AND instr(json, ?4) > 0 ORDER BY position DESC LIMIT ?5";
    let mut statement = db.prepare(sql).context("read trail.db")?;
    let rows = statement.query_map((from, end, young_us, named.as_bytes(), ALERTS_MAX), |row| row.get(0));
    let mut alerts: Vec<Vec<u8>> = rows.and_then(Iterator::collect).context("read trail.db")?;
    alerts.reverse();
    Ok((alerts, end))
}

fn text(alert: &Value) -> String {
    let last =
        alert["row"]["last_report"].as_str().map(|time| format!(" Its last report was at {time}.")).unwrap_or_default();
    let runbook = alert["runbook"].as_str().unwrap_or_default();
    format!(
        "Keytrail's responder does not report any more: alerts are raised, and nothing is contained.{last} {runbook}"
    )
}

/// Whether one receiver took it, or there is none.
async fn is_told(settings: &Settings, text: &str) -> bool {
    let probes = match probe::page(settings, RULE, text, Arc::new(SystemClock)).await {
        Ok(probes) => probes,
        Err(error) => {
            tracing::error!("nobody is told that the responder is down: {:#}", anyhow::Error::new(error));
            return false;
        }
    };
    for probe in &probes {
        match &probe.result {
            Ok(()) => tracing::info!(receiver = probe.receiver, "told that the responder is down"),
            Err(error) => tracing::error!(receiver = probe.receiver, %error, "not told that the responder is down"),
        }
    }
    probes.is_empty() || probes.iter().any(|probe| probe.result.is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_trail::store::Store;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::unix::fs::OpenOptionsExt as _;

    /// Refuses the first delivery and takes the second; gives both.
    fn receiver() -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let mut got = Vec::new();
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut text, mut part) = (String::new(), [0; 4096]);
                while !text.ends_with('}') {
                    let read = stream.read(&mut part).unwrap();
                    text.push_str(std::str::from_utf8(&part[..read]).unwrap());
                }
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                got.push(text);
            }
            got
        });
        (url, serving)
    }

    fn raise(dir: &Path, id: &str, json: &str) {
        let db = Connection::open(dir.join("trail.db")).unwrap();
        let now_us = SystemClock.now_us().cast_signed();
        let sql = "INSERT INTO alerts(alert_id, revision, json, signature, created_us) VALUES (?1, 0, ?2, x'00', ?3)";
        db.execute(sql, (id, json.as_bytes(), now_us)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn people_are_told_until_one_receiver_took_it_and_then_once() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(&dir.path().join("trail.db")).unwrap());
        let secret = dir.path().join("secret");
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&secret).unwrap();
        file.write_all(b"0123456789abcdef0123456789abcdef").unwrap();
        let (url, serving) = receiver();
        let text = format!("[webhook]\nurl = {url:?}\nsecret_file = {secret:?}\n");
        let settings: Settings = toml::from_str(&text).unwrap();
        raise(dir.path(), "a", r#"{"ruleId":"denied-burst","revision":0}"#);
        let mut next = 0;
        assert_eq!(look(dir.path(), &mut next).await.unwrap(), None);
        raise(
            dir.path(),
            "b",
            r#"{"ruleId":"responder-down","revision":0,"row":{"last_report":"2026-01-05T12:00:00Z"},"runbook":"Look."}"#,
        );
        let found = look(dir.path(), &mut next).await.unwrap().unwrap();
        assert_eq!(look(dir.path(), &mut next).await.unwrap(), None, "once");
        assert!(!is_told(&settings, &found).await);
        assert!(is_told(&settings, &found).await);
        let got = serving.join().unwrap();
        assert!(got.iter().all(|text| text.contains("does not report any more")), "{got:?}");
        assert!(got[1].contains("last report was at 2026-01-05T12:00:00Z. Look."), "{}", got[1]);
    }
}
