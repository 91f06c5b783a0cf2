//! Resetting a tripped circuit breaker: two people agree at the KMS, each with a second factor, as they do to an action.
//!
//! `keytrail responder reset` writes down that somebody wants it; the running responder opens the request, pages with the
//! command, waits for the approvals and uses them up: `wanted` → `open` → `using` → `used` or `ended`, each call under an
//! id of its own, so that a crash between call and note repeats it without a second effect. The request is about one trip:
//! it does not reset the next one. Whoever the held actions are about cannot agree. Read `Resetter::step`.

use crate::act::{Control, ControlError};
use crate::approval::{self, Ask};
use crate::guard::micros;
use crate::notify::queue;
use crate::standing::{self, EVERYTHING, Entry, StandingError};
use crate::store::{Micros, Store, StoreError, now_us};
use keytrail_kms::approval::{named_state, subject};
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::clock::Clock;
use rusqlite::{Connection, Row, Transaction, params};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The schema step of this file.
pub(crate) const SCHEMA: &str = "
CREATE TABLE resets(
  id TEXT PRIMARY KEY, subject TEXT NOT NULL, trip INTEGER NOT NULL, by_whom TEXT NOT NULL, suspects TEXT NOT NULL,
  state TEXT NOT NULL, request TEXT, people TEXT, wanted_us INTEGER NOT NULL, expires_us INTEGER NOT NULL) STRICT;
CREATE INDEX resets_live ON resets(subject) WHERE state IN ('wanted', 'open', 'using');
";

/// Between two looks at what people have said.
const LOOK: Duration = Duration::from_millis(500);
/// How long people have to agree.
const TTL: Duration = Duration::from_secs(3_600);
/// Four eyes.
const QUORUM: u8 = 2;
/// What the KMS shows people as the operation.
const OPERATION: &str = "reset_circuit_breaker";
/// First bytes of what is hashed into an id.
const ID_CONTEXT: &str = "keytrail reset v1";

/// Notes that somebody wants the breaker of a playbook, or of everything, to work again.
pub fn want(tx: &Transaction<'_>, of: &str, by: &str, now_us: Micros) -> Result<(), StandingError> {
    let Some(trip) = standing::tripped(tx, of)? else {
        return Err(StandingError::Nothing(format!("the circuit breaker of {of} is not tripped")));
    };
    if let Some(live) = live(tx)?.into_iter().find(|live| live.subject == of && live.trip == trip.id) {
        let request = live.request.map(|request| format!(" (request {request})")).unwrap_or_default();
        let text = format!("the circuit breaker of {of} waits for approvals already{request}, wanted by {}", live.by);
        return Err(StandingError::Nothing(text));
    }
    let wanted = standing::want_reset(tx, of, by, now_us)?;
    let id = hex::encode(sha256(&[format!("{ID_CONTEXT}\n{wanted}\n{}\n{now_us}\n{of}", trip.id).as_bytes()]));
    let suspects = json!(standing::held_back(tx, &trip)?).to_string();
    tx.execute(
        "INSERT INTO resets(id, subject, trip, by_whom, suspects, state, wanted_us, expires_us)
         VALUES (?1, ?2, ?3, ?4, ?5, 'wanted', ?6, ?7)",
        params![id, of, trip.id, by, suspects, now_us, now_us.saturating_add(micros(TTL))],
    )
    .map_err(StoreError::from)?;
    Ok(())
}

/// The request at the KMS that stands for a reset: none while the responder has not opened it.
pub fn request(db: &Connection, of: &str) -> Result<Option<String>, StoreError> {
    Ok(live(db)?.into_iter().filter(|live| live.subject == of).find_map(|live| live.request))
}

/// Whose breakers wait for approvals, and the requests at the KMS.
pub fn waiting(db: &Connection) -> Result<Vec<(String, Option<String>)>, StoreError> {
    Ok(live(db)?.into_iter().map(|live| (live.subject, live.request)).collect())
}

/// Whether calls under this id are ours.
pub(crate) fn is_ours(db: &Connection, id: &str) -> Result<bool, StoreError> {
    Ok(db.prepare_cached("SELECT 1 FROM resets WHERE id = ?1")?.exists([id])?)
}

/// Asks for the approvals of resets and waits for them.
pub(crate) struct Resetter {
    pub(crate) store: Store,
    pub(crate) kms: Arc<dyn Control>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) told: Arc<Notify>,
}

impl Resetter {
    /// Until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if let Err(error) = self.look().await {
                tracing::error!(error = &error as &dyn std::error::Error, "resets cannot be looked at");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
    }

    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        for reset in self.store.read(live).await? {
            if let Err(error) = self.step(&reset).await? {
                self.put_off(&reset, &error).await?;
            }
        }
        Ok(())
    }

    /// One step of one request; inside, what the KMS said instead.
    async fn step(&self, reset: &Live) -> Result<Result<(), ControlError>, StoreError> {
        let of = reset.subject.clone();
        let trip = self.store.read(move |db| standing::tripped(db, &of)).await?;
        let Some(trip) = trip.filter(|trip| trip.id == reset.trip) else {
            self.end(reset, "ended", "the breaker is not tripped any more").await?;
            return Ok(Ok(()));
        };
        match (reset.state.as_str(), &reset.request) {
            ("open", Some(request)) => self.listen(reset, &trip, request).await,
            ("using", Some(request)) => self.use_up(reset, &trip, request, reset.people.clone()).await,
            _ => self.ask(reset, &trip).await,
        }
    }

    async fn ask(&self, reset: &Live, trip: &Entry) -> Result<Result<(), ControlError>, StoreError> {
        let ask = Ask {
            operation: OPERATION.to_owned(),
            target: whose(&reset.subject),
            parameters: json!({
                "breaker": reset.subject, "tripped": trip.reason, "trippedAtMicros": trip.at_us, "wantedBy": reset.by,
            }),
            suspects: reset.suspects.clone(),
            subject: subject(&[OPERATION, &reset.subject, &reset.id]),
            target_state: state_of(trip),
            quorum: QUORUM,
            ttl: TTL,
            away: false,
        };
        let request = match approval::open(self.kms.as_ref(), &format!("{}/open", reset.id), &ask).await {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        fail::fail_point!("responder::reset_opened", |_| std::process::abort());
        let (id, by, now) = (reset.id.clone(), reset.by.clone(), now_us(self.clock.as_ref()));
        let (target, reason) = (whose(&reset.subject), trip.reason.clone());
        self.store
            .write(move |tx| {
                tx.execute(
                    "UPDATE resets SET state = 'open', request = ?2, expires_us = ?3 WHERE id = ?1 AND state = 'wanted'",
                    params![id, request, now.saturating_add(micros(TTL))],
                )?;
                let text = format!(
                    "{by} wants the {target} to work again ({reason}). Two people must agree within {TTL:?}, each with a \
                     second factor. Read: keytrail approval show {request}. Agree: keytrail approval approve {request}"
                );
                queue::page(tx, None, &format!("reset-wanted-{request}"), &text, now)
            })
            .await?;
        self.told.notify_one();
        Ok(Ok(()))
    }

    async fn listen(&self, reset: &Live, trip: &Entry, request: &str) -> Result<Result<(), ControlError>, StoreError> {
        let (standing, people) = match approval::standing(self.kms.as_ref(), request).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        match standing.as_str() {
            "waiting" => {}
            "granted" => {
                let (id, agreed) = (reset.id.clone(), json!(people).to_string());
                self.store
                    .write(move |tx| {
                        let using = "UPDATE resets SET state = 'using', people = ?2 WHERE id = ?1 AND state = 'open'";
                        Ok(tx.execute(using, params![id, agreed])?)
                    })
                    .await?;
                return self.use_up(reset, trip, request, people).await;
            }
            other => self.end(reset, "ended", &format!("its request {request} is {other}")).await?,
        }
        Ok(Ok(()))
    }

    async fn use_up(
        &self,
        reset: &Live,
        trip: &Entry,
        request: &str,
        people: Vec<String>,
    ) -> Result<Result<(), ControlError>, StoreError> {
        let call_id = format!("{}/use", reset.id);
        let used = match approval::consume(self.kms.as_ref(), &call_id, request, &state_of(trip)).await {
            Ok(used) => used,
            Err(error) => return Ok(Err(error)),
        };
        fail::fail_point!("responder::reset_used", |_| std::process::abort());
        let (Some(first), Some(second), true) = (people.first().cloned(), people.get(1).cloned(), used) else {
            self.end(reset, "ended", &format!("its request {request} was for another trip")).await?;
            return Ok(Ok(()));
        };
        let (id, of, now) = (reset.id.clone(), reset.subject.clone(), now_us(self.clock.as_ref()));
        self.store
            .write(move |tx| {
                tx.execute("UPDATE resets SET state = 'used' WHERE id = ?1", [&id])?;
                match standing::reset_by(tx, &of, [&first, &second], now) {
                    Err(StandingError::Store(error)) => Err(error),
                    // The KMS counts persons more strictly than names do, so this is not reached; it must not be tried for ever.
                    Err(error) => queue::page(tx, None, "reset-failed", &error.to_string(), now),
                    Ok(()) => Ok(()),
                }
            })
            .await?;
        self.told.notify_one();
        Ok(Ok(()))
    }

    /// A KMS that says no ends it, one that says nothing is asked again until the time is over.
    async fn put_off(&self, reset: &Live, error: &ControlError) -> Result<(), StoreError> {
        if let ControlError::Refused { .. } = error {
            return self.end(reset, "ended", &format!("the KMS refused: {error}")).await;
        }
        if now_us(self.clock.as_ref()) > reset.expires_us {
            return self.end(reset, "ended", "the KMS could not be asked in time").await;
        }
        tracing::warn!(error = error as &dyn std::error::Error, reset = reset.id, "reset is looked at later");
        Ok(())
    }

    /// The breaker stays as it is, and people are told.
    async fn end(&self, reset: &Live, state: &'static str, why: &str) -> Result<(), StoreError> {
        let (id, now) = (reset.id.clone(), now_us(self.clock.as_ref()));
        let text = format!("The {} was not reset: {why}.", whose(&reset.subject));
        let kind = format!("reset-ended-{}", &id[..12]);
        self.store
            .write(move |tx| {
                tx.execute("UPDATE resets SET state = ?2 WHERE id = ?1", params![id, state])?;
                queue::page(tx, None, &kind, &text, now)
            })
            .await?;
        self.told.notify_one();
        Ok(())
    }
}

/// What the KMS shows people as the target.
fn whose(of: &str) -> String {
    if of == EVERYTHING { "responder's circuit breaker".into() } else { format!("circuit breaker of playbook {of}") }
}

/// The trip that is agreed on: the next one is another.
fn state_of(trip: &Entry) -> String {
    named_state(&format!("trip {} at {} of {}: {}", trip.id, trip.at_us, trip.subject, trip.reason))
}

/// A reset that is under way.
struct Live {
    id: String,
    subject: String,
    trip: i64,
    by: String,
    suspects: Vec<String>,
    state: String,
    request: Option<String>,
    people: Vec<String>,
    expires_us: Micros,
}

/// At most one for each breaker.
fn live(db: &Connection) -> Result<Vec<Live>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id, subject, trip, by_whom, suspects, state, request, people, expires_us FROM resets
         WHERE state IN ('wanted', 'open', 'using') ORDER BY subject",
    )?;
    let rows = statement.query_map([], |row| Ok(one(row)))?;
    rows.map(|row| row?).collect()
}

fn one(row: &Row<'_>) -> Result<Live, StoreError> {
    let names = |text: String| serde_json::from_str(&text).map_err(|_| StoreError::Damaged("reset"));
    Ok(Live {
        id: row.get(0)?,
        subject: row.get(1)?,
        trip: row.get(2)?,
        by: row.get(3)?,
        suspects: names(row.get(4)?)?,
        state: row.get(5)?,
        request: row.get(6)?,
        people: row.get::<_, Option<String>>(7)?.map_or_else(|| Ok(Vec::new()), names)?,
        expires_us: row.get(8)?,
    })
}
