//! Who is to be told of which incident, and when: news, reminders, escalations, and the receiver of last resort.
//!
//! `incident::tell` marks an incident as having news; `take_news` asks the routes and gives each receiver its own due
//! time; `write_due` renders what is due, unless a silence or a worse incident mutes it: then the news waits and is told
//! later. All of it is rows, so a restart forgets nothing and an instant of the past is caught up with.

use crate::config::NotifySettings;
use crate::guard::{kept_as, micros};
use crate::http::link;
use crate::incident::{self, IncidentId};
use crate::notify::facts;
use crate::notify::queue::{self, Envelope};
use crate::notify::receivers::Receiver;
use crate::notify::render::{Message, Occasion, Story};
use crate::notify::route::{InhibitSettings, RouteSettings, Shared, Subject};
use crate::notify::silence;
use crate::playbook::Severity;
use crate::store::{self, Micros, StoreError};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::BTreeMap;

/// Incidents handled in one transaction.
const INCIDENTS_MAX: u32 = 64;
/// A muted notice is looked at again after this long at the latest.
const LOOK_AGAIN_US: Micros = 30_000_000;
/// An incident that did not change for this long mutes no other any more.
const INHIBITS_US: Micros = 4 * 3_600 * 1_000_000;
/// Open incidents that are asked whether they mute one.
const INHIBITORS_MAX: u32 = 32;
/// Receivers of a flood wait this long before the next is tried.
const FLOOD_WAIT_US: Micros = 60_000_000;
const HOUR_US: Micros = 3_600_000_000;

/// The settings that decide.
pub(crate) struct Plan {
    pub(crate) route: RouteSettings,
    pub(crate) inhibit: Vec<InhibitSettings>,
    pub(crate) settings: NotifySettings,
    pub(crate) receivers: Vec<Receiver>,
}

/// Whether there is anything for the functions below, so that an idle responder writes nothing.
pub(crate) fn has_work(db: &Connection, plan: &Plan, now_us: Micros) -> Result<bool, StoreError> {
    let rescue_before = now_us.saturating_sub(micros(plan.settings.last_resort_after));
    let beat_before = plan.settings.heartbeat.map_or(Micros::MIN, |every| now_us.saturating_sub(micros(every)));
    let mut statement = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM incidents WHERE tell_since_us IS NOT NULL)
           OR EXISTS (SELECT 1 FROM tellings WHERE due_us <= ?1)
           OR EXISTS (SELECT 1 FROM tellings WHERE escalate_us <= ?1)
           OR EXISTS (SELECT 1 FROM tellings WHERE repeat_us IS NOT NULL AND told_us + repeat_us <= ?1
             AND due_us IS NULL)
           OR EXISTS (SELECT 1 FROM notices WHERE state IN ('ready', 'dead') AND created_us <= ?2 AND rescued = 0
             AND (attempts > 0 OR state = 'dead'))
           OR EXISTS (SELECT 1 FROM receivers WHERE active = 1 AND heartbeat_us <= ?3)",
    )?;
    Ok(statement.query_row(params![now_us, rescue_before, beat_before], |row| row.get(0))?)
}

/// Gives the news of incidents to the receivers that the routes name; returns how many incidents had any.
pub(crate) fn take_news(tx: &Transaction<'_>, plan: &Plan, now_us: Micros) -> Result<usize, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, tell_since_us, tell_last_us FROM incidents WHERE tell_since_us IS NOT NULL
         ORDER BY tell_since_us LIMIT ?1",
    )?;
    let rows = statement
        .query_map([INCIDENTS_MAX], |row| Ok((IncidentId::new(&row.get::<_, String>(0)?), row.get(1)?, row.get(2)?)))?;
    let news: Vec<(IncidentId, Micros, Micros)> = rows.collect::<Result<_, _>>()?;
    for (id, since_us, last_us) in &news {
        tx.execute("UPDATE incidents SET tell_since_us = NULL, tell_last_us = NULL WHERE id = ?1", [id.as_str()])?;
        let subject = facts::subject(tx, id)?.ok_or(StoreError::Damaged("incident"))?;
        let all: Vec<String> = plan.receivers.iter().map(|receiver| receiver.name.clone()).collect();
        let destinations = plan.route.destinations(&subject, &all);
        if destinations.is_empty() {
            tx.execute("UPDATE incidents SET notices = notices + 1 WHERE id = ?1", [id.as_str()])?;
            incident::note(tx, id, now_us, "notice", "to nobody, no receiver is configured")?;
        }
        // After an acknowledgement that new actions took back, or when it was opened again.
        let unanswered = is_unanswered(tx, id)?;
        for (receiver, how) in &destinations {
            let quiet = (plan.settings.group_wait, plan.settings.group_max);
            let first = match how.group_wait {
                Some(wait) => (wait, wait),
                None if subject.severity >= Severity::High => Default::default(),
                None => quiet,
            };
            let times = [first.0, first.1, quiet.0, quiet.1, how.group_interval.unwrap_or_default()].map(micros);
            let escalate_to = serde_json::to_string(&how.escalate_to).unwrap_or_default();
            news_for(tx, id, receiver, (*since_us, *last_us), times)?;
            tx.prepare_cached(
                "UPDATE tellings SET repeat_us = ?3, escalate_to = ?4,
                   escalate_us = CASE WHEN number = 0 OR escalate_us IS NULL AND ?6 THEN ?5 ELSE escalate_us END
                 WHERE incident = ?1 AND receiver = ?2",
            )?
            .execute(params![
                id.as_str(),
                receiver,
                how.repeat_interval.map(micros),
                escalate_to,
                how.escalate_after.map(|after| since_us.saturating_add(micros(after))),
                unanswered
            ])?;
        }
    }
    Ok(news.len())
}

/// The first notice is due after its own wait; later ones after quiet time, and not before the interval is over.
fn news_for(
    tx: &Transaction<'_>,
    id: &IncidentId,
    receiver: &str,
    (since_us, last_us): (Micros, Micros),
    [first_us, first_longest_us, quiet_us, longest_us, interval_us]: [Micros; 5],
) -> Result<(), StoreError> {
    let held: Option<(u32, Option<Micros>, Option<Micros>)> = tx
        .prepare_cached("SELECT number, since_us, told_us FROM tellings WHERE incident = ?1 AND receiver = ?2")?
        .query_row(params![id.as_str(), receiver], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (number, earlier_us, told_us) = held.unwrap_or_default();
    let since_us = earlier_us.unwrap_or(since_us);
    let (wait_us, longest_us) = if number == 0 { (first_us, first_longest_us) } else { (quiet_us, longest_us) };
    let quiet = last_us.saturating_add(wait_us).min(since_us.saturating_add(longest_us));
    let due_us = quiet.max(told_us.map_or(Micros::MIN, |told| told.saturating_add(interval_us)));
    tx.prepare_cached(
        "INSERT INTO tellings(incident, receiver, occasion, since_us, due_us, wait_us, longest_us)
         VALUES (?1, ?2, 'news', ?3, ?4, ?5, ?6)
         ON CONFLICT(incident, receiver) DO UPDATE SET since_us = ?3, due_us = ?4, wait_us = ?5, longest_us = ?6,
           occasion = CASE WHEN due_us IS NULL THEN 'news' ELSE occasion END",
    )?
    .execute(params![id.as_str(), receiver, since_us, due_us, wait_us, longest_us])?;
    Ok(())
}

/// A receiver is told now, whatever its routes say of waiting.
fn tell_now(
    tx: &Transaction<'_>,
    id: &IncidentId,
    receiver: &str,
    occasion: Occasion,
    now_us: Micros,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO tellings(incident, receiver, occasion, since_us, due_us) VALUES (?1, ?2, ?3, ?4, ?4)
         ON CONFLICT(incident, receiver) DO UPDATE SET occasion = ?3, since_us = coalesce(since_us, ?4), due_us = ?4",
    )?
    .execute(params![id.as_str(), receiver, occasion.as_str(), now_us])?;
    Ok(())
}

/// Somebody who is due.
struct Due {
    receiver: String,
    occasion: Occasion,
    number: u32,
    noted: bool,
}

/// Writes what is due and not muted; returns how many incidents were looked at.
pub(crate) fn write_due(tx: &Transaction<'_>, plan: &Plan, now_us: Micros) -> Result<usize, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT incident, receiver, occasion, number, muted_by IS NOT NULL FROM tellings WHERE incident IN (
           SELECT incident FROM tellings WHERE due_us <= ?1 ORDER BY due_us LIMIT ?2) AND due_us <= ?1",
    )?;
    let mut due: BTreeMap<String, Vec<Due>> = BTreeMap::new();
    let mut rows = statement.query(params![now_us, INCIDENTS_MAX])?;
    while let Some(row) = rows.next()? {
        let one = Due {
            receiver: row.get(1)?,
            occasion: Occasion::read(&row.get::<_, String>(2)?),
            number: row.get(3)?,
            noted: row.get(4)?,
        };
        due.entry(row.get(0)?).or_default().push(one);
    }
    let looked_at = due.len();
    for (id, dues) in due {
        let id = IncidentId::new(&id);
        let subject = facts::subject(tx, &id)?.ok_or(StoreError::Damaged("incident"))?;
        match mute(tx, plan, &id, &subject, now_us)? {
            Some(mute) => hold(tx, &id, &dues, &mute, now_us)?,
            None => write(tx, plan, &id, subject.severity, &dues, now_us)?,
        }
    }
    Ok(looked_at)
}

/// What holds notices back.
struct Mute {
    by: String,
    until_us: Micros,
    silence: Option<i64>,
}

fn mute(
    tx: &Transaction<'_>,
    plan: &Plan,
    id: &IncidentId,
    subject: &Subject,
    now_us: Micros,
) -> Result<Option<Mute>, StoreError> {
    if let Some(silence) = silence::of(tx, subject, now_us)? {
        let by = format!("silence {} of {}: {}", silence.id, silence.author, silence.reason);
        return Ok(Some(Mute { by, until_us: silence.ends_us, silence: Some(silence.id) }));
    }
    for rule in plan.inhibit.iter().filter(|rule| rule.target.takes(subject)) {
        for other in inhibitors(tx, id, subject, &rule.equal, now_us)? {
            let Some(source) = facts::subject(tx, &other)? else { continue };
            let worse = source.severity > subject.severity && rule.source.takes(&source);
            // One that is silenced itself mutes nobody: somebody must hear of something.
            if worse && silence::of(tx, &source, now_us)?.is_none() {
                return Ok(Some(Mute { by: format!("incident {other}"), until_us: Micros::MAX, silence: None }));
            }
        }
    }
    Ok(None)
}

/// Open incidents that were told, changed lately and share something.
fn inhibitors(
    tx: &Transaction<'_>,
    id: &IncidentId,
    subject: &Subject,
    equal: &[Shared],
    now_us: Micros,
) -> Result<Vec<IncidentId>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id FROM incidents WHERE id <> ?1 AND resolved_us IS NULL AND notices > 0 AND changed_us > ?2
           AND ((?3 AND group_kind = 'principal' AND group_value IN (?4, ?7))
             OR (?5 AND id IN (SELECT incident FROM incident_keys WHERE key_arn IN
               (SELECT key_arn FROM incident_keys WHERE incident = ?1))))
         ORDER BY changed_us DESC LIMIT ?6",
    )?;
    let rows = statement.query_map(
        params![
            id.as_str(),
            now_us.saturating_sub(INHIBITS_US),
            equal.contains(&Shared::Principal),
            subject.principal,
            equal.contains(&Shared::Key),
            INHIBITORS_MAX,
            subject.principal.as_deref().map(kept_as)
        ],
        |row| Ok(IncidentId::new(&row.get::<_, String>(0)?)),
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn hold(tx: &Transaction<'_>, id: &IncidentId, dues: &[Due], mute: &Mute, now_us: Micros) -> Result<(), StoreError> {
    for due in dues {
        tx.prepare_cached(
            "UPDATE tellings SET due_us = ?3, muted = muted + (muted_by IS NULL), muted_by = ?4
             WHERE incident = ?1 AND receiver = ?2",
        )?
        .execute(params![id.as_str(), due.receiver, mute.until_us.min(now_us + LOOK_AGAIN_US), mute.by])?;
        if due.noted {
            continue;
        }
        store::count(tx, "notices/muted")?;
        if let Some(silence) = mute.silence {
            silence::count(tx, silence)?;
        }
        incident::note(tx, id, now_us, "notice", &format!("to {} is held back by {}", due.receiver, mute.by))?;
    }
    Ok(())
}

/// Renders the incident as it is now for those who are due.
fn write(
    tx: &Transaction<'_>,
    plan: &Plan,
    id: &IncidentId,
    severity: Severity,
    dues: &[Due],
    now_us: Micros,
) -> Result<(), StoreError> {
    let detail = incident::without_timeline(tx, id)?.ok_or(StoreError::Damaged("incident"))?;
    let (facts, domain) = (facts::read(tx, id)?, queue::message_domain(tx)?);
    // A mail without its link is better than no mail.
    let link = link::acknowledge(tx, id, now_us).unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a notice has no link to acknowledge by");
        None
    });
    let mut told = Vec::new();
    for due in dues {
        let receiver = plan.receivers.iter().find(|receiver| receiver.name == due.receiver);
        // Nobody was told that it began, so nobody needs to know that it is over.
        let over = detail.summary.resolved_us.is_some() && due.number == 0;
        let (Some(receiver), false) = (receiver, over) else {
            set_told(tx, id, due, None)?;
            continue;
        };
        if is_flooded(tx, plan, &due.receiver, severity, now_us)? {
            tx.prepare_cached("UPDATE tellings SET due_us = ?3 WHERE incident = ?1 AND receiver = ?2")?
                .execute(params![id.as_str(), due.receiver, now_us.saturating_add(FLOOD_WAIT_US)])?;
            continue;
        }
        let number = due.number + 1;
        let message_id = format!("{id}.{number}.{}@{domain}", receiver.name);
        let message = Message::Incident(Story {
            detail: &detail,
            facts: &facts,
            number,
            occasion: due.occasion,
            link: link.as_deref(),
            message_id: &message_id,
            thread: &format!("{id}@{domain}"),
            at_us: now_us,
        });
        let first = (number > 1).then(|| format!("{id}.1.{}@{domain}", receiver.name));
        let envelope = Envelope {
            incident: Some(id),
            number,
            message_id: &message_id,
            in_reply_to: first.as_deref(),
            dedup: &format!("{id}/{number}/{}", receiver.name),
            batch: &format!("{id}/{now_us}"),
            now_us,
        };
        queue::put(tx, receiver, &message, &envelope)?;
        set_told(tx, id, due, Some((number, now_us)))?;
        tx.execute("UPDATE incidents SET notices = max(notices, ?2) WHERE id = ?1", params![id.as_str(), number])?;
        told.push(format!("{} (number {number})", receiver.name));
    }
    if told.is_empty() {
        return Ok(());
    }
    incident::note(tx, id, now_us, "notice", &format!("written to {}", told.join(" and ")))
}

fn set_told(tx: &Transaction<'_>, id: &IncidentId, due: &Due, told: Option<(u32, Micros)>) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE tellings SET number = coalesce(?3, number), told_us = coalesce(?4, told_us), occasion = 'news',
           since_us = NULL, due_us = NULL, muted_by = NULL WHERE incident = ?1 AND receiver = ?2",
    )?
    .execute(params![id.as_str(), due.receiver, told.map(|told| told.0), told.map(|told| told.1)])?;
    Ok(())
}

/// True when this receiver was told of so many incidents within the hour that more would be read by nobody; a critical
/// one has as much room again. What waits is told when there is room, and one page says that it waits.
fn is_flooded(
    tx: &Transaction<'_>,
    plan: &Plan,
    receiver: &str,
    severity: Severity,
    now_us: Micros,
) -> Result<bool, StoreError> {
    let count: u32 = tx
        .prepare_cached(
            "SELECT count(DISTINCT message_id) FROM notices WHERE channel = ?1 AND created_us > ?2 AND number > 0",
        )?
        .query_row(params![receiver, now_us.saturating_sub(HOUR_US)], |row| row.get(0))?;
    let room = plan.settings.notices_per_hour.saturating_mul(if severity == Severity::Critical { 2 } else { 1 });
    if count < room {
        return Ok(false);
    }
    let text = format!(
        "{receiver} was told {count} times within an hour; further notices wait until there is room. \
         `keytrail incident list` shows all incidents."
    );
    queue::page_some(tx, None, &format!("flood-{receiver}"), &text, now_us, |one| one.name == receiver)?;
    Ok(true)
}

/// Somebody took it over, or opened it again: what nobody answers from now on is escalated anew.
pub(crate) fn answered(tx: &Transaction<'_>, id: &IncidentId) -> Result<(), StoreError> {
    tx.execute("UPDATE tellings SET escalate_us = NULL WHERE incident = ?1", [id.as_str()])?;
    Ok(())
}

/// Reminds of what is open for long, and tells others of what nobody acknowledged.
pub(crate) fn remind(tx: &Transaction<'_>, now_us: Micros) -> Result<(), StoreError> {
    let pairs = |sql: &str| -> Result<Vec<(String, String, String)>, StoreError> {
        let mut statement = tx.prepare_cached(sql)?;
        let rows =
            statement.query_map(params![now_us, INCIDENTS_MAX], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let repeated = pairs(
        "SELECT incident, receiver, '' FROM tellings
         WHERE repeat_us IS NOT NULL AND told_us + repeat_us <= ?1 AND due_us IS NULL LIMIT ?2",
    )?;
    for (id, receiver, _) in repeated {
        let id = IncidentId::new(&id);
        if is_waiting(tx, &id)? {
            tell_now(tx, &id, &receiver, Occasion::Repeat, now_us)?;
        } else {
            let sql = "UPDATE tellings SET repeat_us = NULL WHERE incident = ?1 AND receiver = ?2";
            tx.execute(sql, params![id.as_str(), receiver])?;
        }
    }
    let escalated = pairs("SELECT incident, receiver, escalate_to FROM tellings WHERE escalate_us <= ?1 LIMIT ?2")?;
    for (id, receiver, to) in escalated {
        let id = IncidentId::new(&id);
        // Once, until somebody answers; see `answered`. Contained is no answer: nobody has looked at it.
        let unanswered = is_unanswered(tx, &id)?;
        let sql = "UPDATE tellings SET escalate_us = ?3 WHERE incident = ?1 AND receiver = ?2";
        tx.execute(sql, params![id.as_str(), receiver, unanswered.then_some(Micros::MAX)])?;
        if !unanswered {
            continue;
        }
        let to: Vec<String> = serde_json::from_str(&to).unwrap_or_default();
        store::count(tx, "notices/escalated")?;
        let text = format!("nobody acknowledged it in time: escalated to {}", to.join(" and "));
        incident::note(tx, &id, now_us, "notice", &text)?;
        for receiver in &to {
            tell_now(tx, &id, receiver, Occasion::Escalation, now_us)?;
        }
    }
    Ok(())
}

/// Nobody took it over, and nobody closed it.
fn is_unanswered(tx: &Transaction<'_>, id: &IncidentId) -> Result<bool, StoreError> {
    let sql = "SELECT resolved_us IS NULL AND acknowledged_us IS NULL FROM incidents WHERE id = ?1";
    Ok(tx.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// So, and it is not contained either.
fn is_waiting(tx: &Transaction<'_>, id: &IncidentId) -> Result<bool, StoreError> {
    let sql = "SELECT state IN ('open', 'reopened') FROM incidents WHERE id = ?1";
    let open = tx.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0)).optional()?.unwrap_or(false);
    Ok(open && is_unanswered(tx, id)?)
}

/// What none of its receivers took for too long goes to the last one; each of them once.
pub(crate) fn rescue(tx: &Transaction<'_>, plan: &Plan, now_us: Micros) -> Result<(), StoreError> {
    let before_us = now_us.saturating_sub(micros(plan.settings.last_resort_after));
    let mut statement = tx.prepare_cached(
        "SELECT batch, max(incident), max(number), max(subject), group_concat(DISTINCT channel) FROM notices n
         WHERE state IN ('ready', 'dead') AND created_us <= ?1 AND rescued = 0 AND (attempts > 0 OR state = 'dead'
             OR EXISTS (SELECT 1 FROM receivers r WHERE r.name = n.channel AND r.failing_us <= ?1))
         GROUP BY batch LIMIT ?2",
    )?;
    let rows = statement.query_map(params![before_us, INCIDENTS_MAX], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
    })?;
    let failed: Vec<(String, Option<String>, u32, String, String)> = rows.collect::<Result<_, _>>()?;
    for (batch, id, number, subject, channels) in failed {
        let arrived: bool = tx
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM notices WHERE batch = ?1 AND state = 'sent')")?
            .query_row([&batch], |row| row.get(0))?;
        tx.prepare_cached("UPDATE notices SET rescued = 1 WHERE batch = ?1")?.execute([&batch])?;
        let Some(last) = &plan.settings.last_resort else { continue };
        if arrived || channels.split(',').any(|channel| channel == last) {
            continue;
        }
        store::count(tx, "notices/rescued")?;
        match (id, number) {
            (Some(id), 1..) => tell_now(tx, &IncidentId::new(&id), last, Occasion::Rescue, now_us)?,
            (id, _) => {
                let id = id.as_deref().map(IncidentId::new);
                let text = format!("A notice did not reach {channels}: {subject}. `keytrail notices list` shows why.");
                queue::page_some(tx, id.as_ref(), "undelivered", &text, now_us, |one| &one.name == last)?;
            }
        }
    }
    Ok(())
}
