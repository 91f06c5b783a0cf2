//! The notices table: what was written for people, and whether it arrived; one row a receiver and recipient.
//!
//! A notice is rendered once and then only delivered, so a second attempt after a crash sends the same text under the
//! same Message-ID, which mail programs show once. Notices about one incident reach a recipient in the order in which they
//! were written. Pages (things that must not wait for an incident's quiet time) are coalesced: one of a kind in ten
//! minutes. `tell` decides who is told of an incident, `ledger` shows and mends this table.

use crate::incident::{self, IncidentId};
use crate::notify::receivers::{Kind, Receiver};
use crate::notify::render::{Message, Page};
use crate::store::{self, Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// Pages of one kind within this time are one page.
const PAGE_EVERY_US: Micros = 600_000_000;
/// Notices that are not delivered yet; further pages are only counted.
const WAITING_MAX: i64 = 1_000;
/// Kind of the page about a notice that was given up; none is written about such a page itself.
const DEAD_LETTER: &str = "dead-letter";

/// One message to one recipient of one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Order of writing.
    pub row: i64,
    /// Whose incident, if any.
    pub incident: Option<IncidentId>,
    /// The receiver's name.
    pub channel: String,
    /// One of the receiver's addresses; empty where the receiver is one.
    pub recipient: String,
    /// 1 for the first of an incident, then counting; 0 for a page.
    pub number: u32,
    /// Without angle brackets; the same at every attempt and for every recipient.
    pub message_id: String,
    /// The incident's first message to this receiver.
    pub in_reply_to: Option<String>,
    /// One line.
    pub subject: String,
    /// What is delivered, in the receiver's own form.
    pub body: String,
    /// How many times delivery failed.
    pub attempts: u32,
    /// When it was written.
    pub created_us: Micros,
}

/// What goes into a row besides the message.
pub(crate) struct Envelope<'a> {
    pub(crate) incident: Option<&'a IncidentId>,
    pub(crate) number: u32,
    pub(crate) message_id: &'a str,
    pub(crate) in_reply_to: Option<&'a str>,
    /// Unique with the recipient.
    pub(crate) dedup: &'a str,
    /// The same for all receivers that are told the same at the same time.
    pub(crate) batch: &'a str,
    pub(crate) now_us: Micros,
}

/// Renders the message for this receiver and writes a row for each recipient; what is there already stays.
pub(crate) fn put(
    tx: &Transaction<'_>,
    receiver: &Receiver,
    message: &Message<'_>,
    envelope: &Envelope<'_>,
) -> Result<(), StoreError> {
    let (subject, body) = (message.subject(), receiver.kind.body(message));
    let nobody_in_particular = [String::new()];
    let recipients = if receiver.recipients.is_empty() { &nobody_in_particular[..] } else { &receiver.recipients };
    for recipient in recipients {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO notices(dedup, incident, channel, recipient, number, message_id, in_reply_to, subject,
               body, batch, state, created_us, next_attempt_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'ready', ?11, ?11)",
        )?
        .execute(params![
            format!("{}/{recipient}", envelope.dedup),
            envelope.incident.map(IncidentId::as_str),
            receiver.name,
            recipient,
            envelope.number,
            envelope.message_id,
            envelope.in_reply_to,
            subject,
            body,
            envelope.batch,
            envelope.now_us
        ])?;
    }
    Ok(())
}

/// Writes a page to every receiver unless one of this kind was written in the last ten minutes.
pub fn page(
    tx: &Transaction<'_>,
    incident: Option<&IncidentId>,
    kind: &str,
    text: &str,
    now_us: Micros,
) -> Result<(), StoreError> {
    page_some(tx, incident, kind, text, now_us, |_| true)
}

/// As [`page`], to some of the receivers.
pub(crate) fn page_some(
    tx: &Transaction<'_>,
    incident: Option<&IncidentId>,
    kind: &str,
    text: &str,
    now_us: Micros,
    whom: impl Fn(&Receiver) -> bool,
) -> Result<(), StoreError> {
    page_about(tx, incident, (kind, &(now_us / PAGE_EVERY_US).to_string()), text, now_us, whom)
}

/// As [`page`], once for each entry of the standing: paused, resumed and paused again are three pages.
pub(crate) fn page_entry(
    tx: &Transaction<'_>,
    kind: &str,
    entry: i64,
    text: &str,
    now_us: Micros,
) -> Result<(), StoreError> {
    page_about(tx, None, (kind, &format!("entry-{entry}")), text, now_us, |_| true)
}

/// A page that is told once for each kind, incident and occasion.
fn page_about(
    tx: &Transaction<'_>,
    incident: Option<&IncidentId>,
    (kind, occasion): (&str, &str),
    text: &str,
    now_us: Micros,
    whom: impl Fn(&Receiver) -> bool,
) -> Result<(), StoreError> {
    store::count(tx, &format!("page/{kind}"))?;
    let name = incident.map_or("-", IncidentId::as_str);
    let domain = message_domain(tx)?;
    for receiver in receivers(tx)?.iter().filter(|receiver| whom(receiver)) {
        // What one of them does not take keeps nothing from the others.
        let sql = "SELECT count(*) FROM notices WHERE state = 'ready' AND channel = ?1";
        let waiting: i64 = tx.prepare_cached(sql)?.query_row([&receiver.name], |row| row.get(0))?;
        if waiting >= WAITING_MAX {
            continue;
        }
        let dedup = format!("page/{kind}/{name}/{occasion}/{}", receiver.name);
        let message_id = format!("page.{kind}.{name}.{occasion}.{}@{domain}", receiver.name);
        let message =
            Message::Page(Page { incident, kind, text, message_id: &message_id, at_us: now_us, heartbeat: false });
        let envelope = Envelope {
            incident,
            number: 0,
            message_id: &message_id,
            in_reply_to: None,
            dedup: &dedup,
            batch: &format!("page/{kind}/{name}/{occasion}"),
            now_us,
        };
        put(tx, receiver, &message, &envelope)?;
    }
    Ok(())
}

/// What a receiver has to be given now, oldest first; a notice waits for earlier ones about the same incident.
pub fn due(db: &Connection, channel: &str, now_us: Micros, notices_max: u32) -> Result<Vec<Notice>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT row, incident, channel, number, message_id, in_reply_to, subject, body, attempts, created_us, recipient
         FROM notices n WHERE channel = ?1 AND state = 'ready' AND next_attempt_us <= ?2
           AND NOT EXISTS (SELECT 1 FROM notices e WHERE e.channel = ?1 AND e.state = 'ready' AND e.row < n.row
             AND e.incident = n.incident AND e.recipient = n.recipient AND e.number > 0 AND n.number > 0)
         ORDER BY row LIMIT ?3",
    )?;
    let rows = statement.query_map(params![channel, now_us, notices_max], notice)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Remembers which receivers are configured. What waits for one that is gone is dropped, and told to whom the routes
/// name now.
pub(crate) fn set_receivers(tx: &Transaction<'_>, receivers: &[Receiver], now_us: Micros) -> Result<(), StoreError> {
    tx.execute("UPDATE receivers SET active = 0", [])?;
    for receiver in receivers {
        let recipients = serde_json::to_string(&receiver.recipients).unwrap_or_default();
        tx.execute(
            "INSERT INTO receivers(name, kind, recipients, active, heartbeat_us) VALUES (?1, ?2, ?3, 1, ?4)
             ON CONFLICT(name) DO UPDATE SET kind = ?2, recipients = ?3, active = 1",
            params![receiver.name, receiver.kind.as_str(), recipients, now_us],
        )?;
    }
    tx.execute(
        "UPDATE incidents SET tell_since_us = coalesce(tell_since_us, ?1), tell_last_us = ?1
         WHERE resolved_us IS NULL AND id IN (
           SELECT incident FROM tellings WHERE due_us IS NOT NULL
             AND receiver NOT IN (SELECT name FROM receivers WHERE active = 1)
           UNION SELECT incident FROM notices WHERE state = 'ready' AND number > 0
             AND channel NOT IN (SELECT name FROM receivers WHERE active = 1))",
        [now_us],
    )?;
    tx.execute(
        "UPDATE tellings SET due_us = NULL, repeat_us = NULL, escalate_us = NULL
         WHERE receiver NOT IN (SELECT name FROM receivers WHERE active = 1)",
        [],
    )?;
    tx.execute(
        "UPDATE notices SET state = 'dropped', error = 'the receiver is no longer configured'
         WHERE state = 'ready' AND channel NOT IN (SELECT name FROM receivers WHERE active = 1)",
        [],
    )?;
    Ok(())
}

/// The configured receivers.
pub(crate) fn receivers(db: &Connection) -> Result<Vec<Receiver>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT name, kind, recipients FROM receivers WHERE active = 1 ORDER BY name")?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
    rows.map(|row| {
        let (name, kind, recipients) = row?;
        let kind = Kind::read(&kind).ok_or(StoreError::Damaged("receiver's kind"))?;
        let recipients = serde_json::from_str(&recipients).map_err(|_| StoreError::Damaged("receiver's recipients"))?;
        Ok(Receiver { name, kind, recipients })
    })
    .collect()
}

/// The receiver took it.
pub fn sent(tx: &Transaction<'_>, notice: &Notice, now_us: Micros) -> Result<(), StoreError> {
    tx.execute("UPDATE notices SET state = 'sent', sent_us = ?2 WHERE row = ?1", params![notice.row, now_us])?;
    tx.execute(
        "UPDATE receivers SET ok_us = ?2, failing_us = NULL, error = NULL WHERE name = ?1",
        params![notice.channel, now_us],
    )?;
    match &notice.incident {
        Some(id) => incident::note(tx, id, now_us, "notice", &format!("{} was sent", whom(notice))),
        None => Ok(()),
    }
}

/// Another attempt at `at_us`.
pub fn later(
    tx: &Transaction<'_>,
    notice: &Notice,
    reason: &str,
    at_us: Micros,
    now_us: Micros,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE notices SET attempts = attempts + 1, error = ?2, next_attempt_us = ?3 WHERE row = ?1 AND state = 'ready'",
        params![notice.row, reason, at_us],
    )?;
    failing(tx, notice, reason, now_us)
}

/// No further attempt. The others are told, since this receiver cannot be.
pub fn dead(tx: &Transaction<'_>, notice: &Notice, reason: &str, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE notices SET state = 'dead', attempts = attempts + 1, error = ?2 WHERE row = ?1",
        params![notice.row, reason],
    )?;
    failing(tx, notice, reason, now_us)?;
    store::count(tx, &format!("dead/{}", notice.channel))?;
    if !notice.message_id.starts_with(&format!("page.{DEAD_LETTER}")) {
        let text = format!(
            "A notice was given up and is a dead letter: {}, {:?}: {reason}. `keytrail notices list --state dead` shows \
             all, `keytrail notices retry` sends again.",
            whom(notice),
            notice.subject
        );
        let kind = format!("{DEAD_LETTER}-{}", notice.channel);
        page_some(tx, None, &kind, &text, now_us, |receiver| receiver.name != notice.channel)?;
    }
    match &notice.incident {
        Some(id) => incident::note(tx, id, now_us, "notice", &format!("{} was given up", whom(notice))),
        None => Ok(()),
    }
}

fn failing(tx: &Transaction<'_>, notice: &Notice, reason: &str, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE receivers SET failing_us = coalesce(failing_us, ?2), error = ?3 WHERE name = ?1",
        params![notice.channel, now_us, reason],
    )?;
    Ok(())
}

fn whom(notice: &Notice) -> String {
    match notice.recipient.as_str() {
        "" => notice.channel.clone(),
        recipient => format!("{} to {recipient}", notice.channel),
    }
}

/// Right side of our Message-IDs: random, chosen once per folder, in a domain that never resolves.
pub(crate) fn message_domain(tx: &Transaction<'_>) -> Result<String, StoreError> {
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
        recipient: row.get(10)?,
    })
}
