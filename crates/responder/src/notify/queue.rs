//! The notices table: what was written for people, and whether it arrived.
//!
//! A notice is rendered once and then only delivered, so a second attempt after a crash sends the same text under the
//! same Message-ID, which mail programs show once. Pages (things that must not wait for an incident's quiet time) are
//! coalesced: one of a kind in ten minutes.

use crate::incident::{self, IncidentId};
use crate::notify::render;
use crate::store::{self, Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// Pages of one kind within this time are one page.
const PAGE_EVERY_US: Micros = 600_000_000;
/// Notices a channel has not delivered yet; further pages are only counted.
const WAITING_MAX: i64 = 1_000;

/// One message on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Order of writing.
    pub row: i64,
    /// Whose incident, if any.
    pub incident: Option<IncidentId>,
    /// `mail` or `webhook`.
    pub channel: String,
    /// 1 for the first of an incident, then counting; 0 for a page.
    pub number: u32,
    /// Without angle brackets; the same at every attempt.
    pub message_id: String,
    /// The incident's first message.
    pub in_reply_to: Option<String>,
    /// One line.
    pub subject: String,
    /// Text of the mail, or JSON of the webhook.
    pub body: String,
    /// How many times delivery failed.
    pub attempts: u32,
    /// When it was written.
    pub created_us: Micros,
}

/// Incidents whose quiet time is over.
pub fn incidents_to_tell(
    db: &Connection,
    now_us: Micros,
    wait_us: Micros,
    longest_us: Micros,
) -> Result<Vec<IncidentId>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id FROM incidents WHERE tell_since_us IS NOT NULL
           AND (tell_last_us <= ?1 OR tell_since_us <= ?2) ORDER BY tell_since_us LIMIT 64",
    )?;
    let rows = statement.query_map(params![now_us - wait_us, now_us - longest_us], |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(IncidentId::new(&row?))).collect()
}

/// Renders the incident as it is now for every channel.
pub fn write_incident(
    tx: &Transaction<'_>,
    id: &IncidentId,
    channels: &[&'static str],
    now_us: Micros,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE incidents SET tell_since_us = NULL, tell_last_us = NULL, notices = notices + 1
         WHERE id = ?1 AND tell_since_us IS NOT NULL",
        [id.as_str()],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let detail = incident::detail(tx, id)?.ok_or(StoreError::Damaged("incident"))?;
    let (number, domain) = (detail.summary.notices, message_domain(tx)?);
    for channel in channels {
        let message_id = format!("{id}.{number}.{channel}@{domain}");
        let body = match *channel {
            "webhook" => render::payload(&detail, number, &message_id),
            _ => render::text(&detail, number),
        };
        tx.execute(
            "INSERT OR IGNORE INTO notices(dedup, incident, channel, number, message_id, in_reply_to, subject, body,
               state, created_us, next_attempt_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'ready', ?9, ?9)",
            params![
                format!("{id}/{number}/{channel}"),
                id.as_str(),
                channel,
                number,
                message_id,
                (number > 1).then(|| format!("{id}.1.{channel}@{domain}")),
                render::subject(&detail, number),
                body,
                now_us
            ],
        )?;
    }
    let to = if channels.is_empty() { "nobody, no channel is configured".into() } else { channels.join(" and ") };
    incident::note(tx, id, now_us, "notice", &format!("number {number} to {to}"))
}

/// Writes a page unless one of this kind was written in the last ten minutes.
pub fn page(
    tx: &Transaction<'_>,
    incident: Option<&IncidentId>,
    kind: &str,
    text: &str,
    now_us: Micros,
) -> Result<(), StoreError> {
    store::count(tx, &format!("page/{kind}"))?;
    let waiting: i64 = tx.query_row("SELECT count(*) FROM notices WHERE state = 'ready'", [], |row| row.get(0))?;
    if waiting >= WAITING_MAX {
        return Ok(());
    }
    let name = incident.map_or("-", IncidentId::as_str);
    let domain = message_domain(tx)?;
    let channels: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE key = 'channels'", [], |row| row.get(0)).optional()?;
    for channel in channels.unwrap_or_default().split_whitespace() {
        let dedup = format!("page/{kind}/{name}/{}/{channel}", now_us / PAGE_EVERY_US);
        let message_id = format!("page.{kind}.{name}.{}.{channel}@{domain}", now_us / PAGE_EVERY_US);
        let body = match channel {
            "webhook" => render::page_payload(incident, kind, text, &message_id),
            _ => render::page_text(incident, text),
        };
        tx.execute(
            "INSERT OR IGNORE INTO notices(dedup, incident, channel, number, message_id, subject, body, state,
               created_us, next_attempt_us)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, 'ready', ?7, ?7)",
            params![
                dedup,
                incident.map(IncidentId::as_str),
                channel,
                message_id,
                render::page_subject(kind),
                body,
                now_us
            ],
        )?;
    }
    Ok(())
}

/// What a channel has to deliver now, oldest first.
pub fn due(db: &Connection, channel: &str, now_us: Micros, notices_max: u32) -> Result<Vec<Notice>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT row, incident, channel, number, message_id, in_reply_to, subject, body, attempts, created_us
         FROM notices WHERE channel = ?1 AND state = 'ready' AND next_attempt_us <= ?2 ORDER BY row LIMIT ?3",
    )?;
    let rows = statement.query_map(params![channel, now_us, notices_max], notice)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Remembers which channels are configured: pages are written for these.
pub fn set_channels(tx: &Transaction<'_>, channels: &[&'static str]) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO meta(key, value) VALUES ('channels', ?1) ON CONFLICT(key) DO UPDATE SET value = ?1",
        [channels.join(" ")],
    )?;
    Ok(())
}

/// The receiver took it.
pub fn sent(tx: &Transaction<'_>, notice: &Notice, now_us: Micros) -> Result<(), StoreError> {
    tx.execute("UPDATE notices SET state = 'sent', sent_us = ?2 WHERE row = ?1", params![notice.row, now_us])?;
    match &notice.incident {
        Some(id) => incident::note(tx, id, now_us, "notice", &format!("{} was sent", notice.channel)),
        None => Ok(()),
    }
}

/// Another attempt at `at_us`.
pub fn later(tx: &Transaction<'_>, notice: &Notice, reason: &str, at_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE notices SET attempts = attempts + 1, error = ?2, next_attempt_us = ?3 WHERE row = ?1",
        params![notice.row, reason, at_us],
    )?;
    Ok(())
}

/// No further attempt.
pub fn dead(tx: &Transaction<'_>, notice: &Notice, reason: &str, now_us: Micros) -> Result<(), StoreError> {
    tx.execute("UPDATE notices SET state = 'dead', error = ?2 WHERE row = ?1", params![notice.row, reason])?;
    store::count(tx, &format!("dead/{}", notice.channel))?;
    match &notice.incident {
        Some(id) => incident::note(tx, id, now_us, "notice", &format!("{} was given up", notice.channel)),
        None => Ok(()),
    }
}

/// Right side of our Message-IDs: random, chosen once per folder, in a domain that never resolves.
fn message_domain(tx: &Transaction<'_>) -> Result<String, StoreError> {
    let held = tx.query_row("SELECT value FROM meta WHERE key = 'message_domain'", [], |row| row.get(0)).optional()?;
    if let Some(domain) = held {
        return Ok(domain);
    }
    let domain = format!("{}.keytrail.invalid", uuid::Uuid::now_v7().simple());
    tx.execute("INSERT INTO meta(key, value) VALUES ('message_domain', ?1)", [&domain])?;
    Ok(domain)
}

fn notice(row: &Row<'_>) -> Result<Notice, rusqlite::Error> {
    Ok(Notice {
        row: row.get(0)?,
        incident: row.get::<_, Option<String>>(1)?.as_deref().map(IncidentId::new),
        channel: row.get(2)?,
        number: row.get(3)?,
        message_id: row.get(4)?,
        in_reply_to: row.get(5)?,
        subject: row.get(6)?,
        body: row.get(7)?,
        attempts: row.get(8)?,
        created_us: row.get(9)?,
    })
}
