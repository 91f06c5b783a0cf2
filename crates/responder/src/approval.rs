//! Actions that people must agree to: asked for at the KMS, waited for, and carried out for the very target that was agreed on.
//!
//! The KMS keeps requests and approvals, since people are its principals and it judges their second factor; here is which action
//! has which request. `wanted` (no request yet) → `open` → `using` → `used` or `ended`. Each call carries an id made from the
//! action's, so that a crash between call and note repeats it without a second effect. What is not approved in time, or whose
//! target has changed, is held and paged; it is never done by itself. Read `Approver::step`.

use crate::act::{Control, ControlError, Worker, aws, steps};
use crate::incident;
use crate::intake::verify::VerifiedAlert;
use crate::notify::queue;
use crate::outbox::{self, Action, ActionState, End};
use crate::plan::Proposal;
use crate::playbook::ApprovalTerms;
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::approval::{named_state, subject};
use keytrail_kms::clock::Clock;
use rusqlite::{Connection, Row, Transaction, params};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The schema step of this file.
pub(crate) const SCHEMA: &str = "
CREATE TABLE approvals(
  action TEXT PRIMARY KEY, incident TEXT NOT NULL, suspects TEXT NOT NULL, subject TEXT NOT NULL, quorum INTEGER NOT NULL,
  ttl_us INTEGER NOT NULL, state TEXT NOT NULL, target_state TEXT, used_state TEXT, request TEXT, wanted_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL, next_look_us INTEGER NOT NULL) STRICT;
CREATE INDEX approvals_due ON approvals(next_look_us) WHERE state IN ('wanted', 'open', 'using');
";

/// Between two looks at what people have said.
const LOOK: Duration = Duration::from_millis(500);
/// Requests looked at in one go.
const ROWS_MAX: u32 = 64;
/// The KMS's bound on whom a request may be about.
const SUSPECTS_MAX: usize = 64;
/// The member of an action's arguments that asks for approval.
const ASKED: &str = "approval";

/// What the KMS is asked to let people approve.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What will be done.
    pub operation: String,
    /// To what: an ARN.
    pub target: String,
    /// For people to read.
    pub parameters: Value,
    /// ARNs and access key ids of whom it is about.
    pub suspects: Vec<String>,
    /// `keytrail_kms::approval::subject` of all that matters.
    pub subject: String,
    /// `keytrail_kms::approval::{key_state, named_state}` of the target.
    pub target_state: String,
    /// One to five.
    pub quorum: u8,
    /// A minute to a day.
    pub ttl: Duration,
    /// The target is at AWS: those decide who decide about this node.
    pub away: bool,
}

/// Opens a request under an id of the caller's, which makes a repeat give the same answer; its id, `A-...`.
pub async fn open(kms: &dyn Control, call_id: &str, ask: &Ask) -> Result<String, ControlError> {
    let body = json!({
        "Operation": ask.operation, "Target": ask.target, "Parameters": ask.parameters, "Suspects": ask.suspects,
        "Subject": ask.subject, "TargetState": ask.target_state, "Quorum": ask.quorum, "TtlSeconds": ask.ttl.as_secs(),
        "Away": ask.away.then_some(true),
    });
    let answer = kms.call("KeytrailService.OpenApprovalRequest", body, Some(call_id)).await?;
    let id = answer.body.get("RequestId").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| ControlError::Refused { code: "UnreadableAnswer".into(), message: "no RequestId".into() })
}

/// Where a request stands: `waiting`, `granted`, `expired`, `used`, `rejected` or `stale`, and who has approved.
pub async fn standing(kms: &dyn Control, request: &str) -> Result<(String, Vec<String>), ControlError> {
    let body = json!({"RequestId": request});
    let answer = kms.call("KeytrailService.DescribeApprovalRequest", body, None).await?;
    let approvals = answer.body.get("Approvals").and_then(Value::as_array).into_iter().flatten();
    let people = approvals.filter_map(|one| Some(one.get("Principal")?.as_str()?.to_owned())).collect();
    Ok((state(&answer.body), people))
}

/// Uses a granted request up, once: true when its target is as it was approved, false when it is not and the request void.
pub async fn consume(
    kms: &dyn Control,
    call_id: &str,
    request: &str,
    target_state: &str,
) -> Result<bool, ControlError> {
    let body = json!({"RequestId": request, "TargetState": target_state});
    let answer = kms.call("KeytrailService.ConsumeApprovalRequest", body, Some(call_id)).await?;
    Ok(state(&answer.body) == "used")
}

/// What a step asks for, into the arguments of its action.
pub(crate) fn into_args(terms: Option<&ApprovalTerms>, args: &mut Value) {
    if let (Some(terms), Some(members)) = (terms, args.as_object_mut()) {
        members.insert(ASKED.to_owned(), json!({"quorum": terms.quorum, "ttlSeconds": terms.ttl.as_secs()}));
    }
}

/// Whether an action waits for people; one that follows another was approved with it.
pub(crate) fn is_asked(proposal: &Proposal) -> bool {
    proposal.requires.is_none() && proposal.args.get(ASKED).is_some()
}

/// Remembers that an action waits, in the transaction that plans it.
pub(crate) fn want(
    tx: &Transaction<'_>,
    proposal: &Proposal,
    alert: &VerifiedAlert,
    now_us: Micros,
) -> Result<(), StoreError> {
    let asked = |name: &str| proposal.args.get(ASKED).and_then(|asked| asked.get(name)).and_then(Value::as_i64);
    let (Some(quorum), Some(ttl_s)) = (asked("quorum"), asked("ttlSeconds")) else {
        return Err(StoreError::Damaged("approval of an action"));
    };
    let ttl_us = ttl_s.saturating_mul(1_000_000);
    tx.prepare_cached(
        "INSERT OR IGNORE INTO approvals(action, incident, suspects, subject, quorum, ttl_us, state, wanted_us, expires_us,
           next_look_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'wanted', ?7, ?8, ?7)",
    )?
    .execute(params![
        proposal.id,
        proposal.incident.as_str(),
        json!(suspects(alert)).to_string(),
        plan_digest(proposal),
        quorum,
        ttl_us,
        now_us,
        now_us.saturating_add(ttl_us)
    ])?;
    Ok(())
}

/// The action that an id of ours belongs to: calls about its approval are known by it.
pub(crate) fn action_of_call(call_id: &str) -> &str {
    call_id.split_once('/').map_or(call_id, |(action, _)| action)
}

/// A request of an incident, for `keytrail incident approve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The action's id.
    pub action: String,
    /// What it does.
    pub kind: String,
    /// To what.
    pub target: String,
    /// The KMS's request; none before it was opened.
    pub request: Option<String>,
}

/// What of an incident waits for approval, oldest first.
pub fn asked(data_dir: &Path, incident: &str) -> Result<Vec<Asked>, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| {
        let mut statement = db.prepare(
            "SELECT a.id, a.kind, a.target, p.request FROM approvals p JOIN actions a ON a.id = p.action
             WHERE p.incident = ?1 AND a.state = 'awaiting_approval' ORDER BY a.row",
        )?;
        let rows = statement.query_map([incident], |row| {
            Ok(Asked { action: row.get(0)?, kind: row.get(1)?, target: row.get(2)?, request: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// Asks for approvals and waits for them.
pub(crate) struct Approver {
    pub(crate) store: Store,
    pub(crate) kms: Arc<dyn Control>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) told: Arc<Notify>,
}

impl Approver {
    /// Until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if let Err(error) = self.look().await {
                tracing::error!(error = &error as &dyn std::error::Error, "approvals cannot be looked at");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let now = self.now_us();
        for wait in self.store.read(move |db| due(db, now)).await? {
            if let Err(error) = self.step(&wait).await? {
                self.put_off(&wait, error).await?;
            }
        }
        Ok(())
    }

    /// One step of one request; inside, what the KMS said instead.
    async fn step(&self, wait: &Wait) -> Result<Result<(), ControlError>, StoreError> {
        if wait.action.state != ActionState::AwaitingApproval {
            self.note(wait, "ended", |_| Ok(())).await?;
            return Ok(Ok(()));
        }
        let done = match (wait.state.as_str(), &wait.target_state, &wait.request, &wait.used_state) {
            ("wanted", Some(state), _, _) => self.ask(wait, state).await?,
            ("open", _, Some(request), _) => self.listen(wait, request).await?,
            ("using", _, Some(request), Some(state)) => self.use_up(wait, request, state).await?,
            _ => self.see(wait).await?,
        };
        Ok(done)
    }

    /// Writes down how the target is before anybody is asked: what is asked for must be the same after a crash.
    async fn see(&self, wait: &Wait) -> Result<Result<(), ControlError>, StoreError> {
        let state = match target_state(self.kms.as_ref(), &wait.action).await {
            Ok(state) => state,
            Err(error) => return Ok(Err(error)),
        };
        let id = wait.action.id.clone();
        let seen = state.clone();
        self.store
            .write(move |tx| {
                tx.execute("UPDATE approvals SET target_state = ?2 WHERE action = ?1", params![id, seen])?;
                Ok(())
            })
            .await?;
        self.ask(wait, &state).await
    }

    async fn ask(&self, wait: &Wait, target_state: &str) -> Result<Result<(), ControlError>, StoreError> {
        let action = &wait.action;
        let ask = Ask {
            operation: action.kind.to_string(),
            target: action.target.clone(),
            parameters: json!({
                "incident": action.incident.as_str(), "playbook": action.playbook, "version": action.playbook_version,
                "step": action.step, "cause": action.cause, "actionId": action.id, "arguments": action.args,
            }),
            suspects: wait.suspects.clone(),
            subject: wait.subject.clone(),
            target_state: target_state.to_owned(),
            quorum: wait.quorum,
            ttl: Duration::from_micros(u64::try_from(wait.ttl_us).unwrap_or_default()),
            away: aws::is_there(action),
        };
        let request = match open(self.kms.as_ref(), &format!("{}/open", action.id), &ask).await {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        fail::fail_point!("responder::approval_opened", |_| std::process::abort());
        let now = self.now_us();
        let (row, quorum, ttl) = (action.clone(), wait.quorum, ask.ttl);
        // The KMS's own end counts; ours begins when it was asked, and is only for a KMS that does not answer any more.
        let expires = now.saturating_add(wait.ttl_us);
        self.store
            .write(move |tx| {
                tx.execute(
                    "UPDATE approvals SET state = 'open', request = ?2, expires_us = ?3 WHERE action = ?1",
                    params![row.id, request, expires],
                )?;
                let text = format!(
                    "{} {} waits for {quorum} approvals (request {request}, {ttl:?}) and is not done without them. Read: \
                     keytrail approval show {request}. Agree: keytrail approval approve {request}",
                    row.kind, row.target
                );
                incident::note(tx, &row.incident, now, "approval", &text)?;
                queue::page(tx, Some(&row.incident), &page_kind("approval-wanted", &row), &text, now)?;
                incident::tell(tx, &row.incident, now)
            })
            .await?;
        self.told.notify_one();
        Ok(Ok(()))
    }

    async fn listen(&self, wait: &Wait, request: &str) -> Result<Result<(), ControlError>, StoreError> {
        let (standing, people) = match standing(self.kms.as_ref(), request).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        match standing.as_str() {
            "waiting" => {
                self.next_look(wait, None).await?;
                Ok(Ok(()))
            }
            "granted" => {
                let state = match target_state(self.kms.as_ref(), &wait.action).await {
                    Ok(state) => state,
                    Err(error) => return Ok(Err(error)),
                };
                let (id, seen) = (wait.action.id.clone(), state.clone());
                let (incident, now) = (wait.action.incident.clone(), self.now_us());
                let text = format!("{request} was approved by {}", people.join(" and "));
                self.store
                    .write(move |tx| {
                        tx.execute(
                            "UPDATE approvals SET state = 'using', used_state = ?2 WHERE action = ?1",
                            params![id, seen],
                        )?;
                        incident::note(tx, &incident, now, "approval", &text)
                    })
                    .await?;
                self.use_up(wait, request, &state).await
            }
            other => {
                self.hold(wait, &format!("its request {request} is {other}")).await?;
                Ok(Ok(()))
            }
        }
    }

    async fn use_up(&self, wait: &Wait, request: &str, state: &str) -> Result<Result<(), ControlError>, StoreError> {
        let call_id = format!("{}/use", wait.action.id);
        let used = match consume(self.kms.as_ref(), &call_id, request, state).await {
            Ok(used) => used,
            Err(error) => return Ok(Err(error)),
        };
        fail::fail_point!("responder::approval_used", |_| std::process::abort());
        if !used {
            self.hold(wait, "its target has changed since it was asked for").await?;
            return Ok(Ok(()));
        }
        let (id, now) = (wait.action.id.clone(), self.now_us());
        self.note(wait, "used", move |tx| {
            tx.execute(
                "UPDATE actions SET state = 'ready', reason = NULL, next_attempt_us = max(next_attempt_us, ?2)
                 WHERE id = ?1 AND state = 'awaiting_approval'",
                params![id, now],
            )?;
            Ok(())
        })
        .await?;
        self.worker.wake();
        Ok(Ok(()))
    }

    /// Not done, and a person must look at it.
    async fn hold(&self, wait: &Wait, why: &str) -> Result<(), StoreError> {
        let (row, now) = (wait.action.clone(), self.now_us());
        let reason = format!("approval: {why}");
        self.note(wait, "ended", move |tx| {
            outbox::finish(tx, &row, &End::not_done(ActionState::Suppressed, reason.as_str()), now)?;
            let text = format!(
                "{} {} was not done: {reason}. Decide by hand, or wait for its next alert.",
                row.kind, row.target
            );
            queue::page(tx, Some(&row.incident), &page_kind("approval-ended", &row), &text, now)?;
            incident::tell(tx, &row.incident, now)
        })
        .await?;
        self.told.notify_one();
        Ok(())
    }

    /// A KMS that says no ends it, one that says nothing is asked again until the time is over.
    async fn put_off(&self, wait: &Wait, error: ControlError) -> Result<(), StoreError> {
        if let ControlError::Refused { .. } = error {
            return self.hold(wait, &format!("the KMS refused: {error}")).await;
        }
        if self.now_us() > wait.expires_us {
            return self.hold(wait, "the KMS could not be asked in time").await;
        }
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            action = wait.action.id,
            "approval is looked at later"
        );
        self.next_look(wait, Some(&error.to_string())).await
    }

    async fn next_look(&self, wait: &Wait, reason: Option<&str>) -> Result<(), StoreError> {
        let (id, at) = (wait.action.id.clone(), self.now_us().saturating_add(crate::guard::micros(LOOK)));
        let reason = reason.map(str::to_owned);
        self.store
            .write(move |tx| {
                tx.execute("UPDATE approvals SET next_look_us = ?2 WHERE action = ?1", params![id, at])?;
                if let Some(reason) = reason {
                    tx.execute(
                        "UPDATE actions SET reason = ?2 WHERE id = ?1 AND state = 'awaiting_approval'",
                        params![id, reason],
                    )?;
                }
                Ok(())
            })
            .await
    }

    /// Another state, with what else commits with it.
    async fn note(
        &self,
        wait: &Wait,
        state: &'static str,
        more: impl FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let id = wait.action.id.clone();
        self.store
            .write(move |tx| {
                tx.execute("UPDATE approvals SET state = ?2 WHERE action = ?1", params![id, state])?;
                more(tx)
            })
            .await
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}

/// A row, with its action.
struct Wait {
    action: Action,
    suspects: Vec<String>,
    subject: String,
    quorum: u8,
    ttl_us: Micros,
    state: String,
    target_state: Option<String>,
    used_state: Option<String>,
    request: Option<String>,
    expires_us: Micros,
}

fn due(db: &Connection, now_us: Micros) -> Result<Vec<Wait>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT action, incident, suspects, subject, quorum, ttl_us, state, target_state, used_state, request, expires_us
         FROM approvals WHERE state IN ('wanted', 'open', 'using') AND next_look_us <= ?1 ORDER BY next_look_us, wanted_us LIMIT ?2",
    )?;
    let rows = statement.query_map(params![now_us, ROWS_MAX], |row| Ok(wait(db, row)))?;
    rows.map(|row| row?).collect()
}

fn wait(db: &Connection, row: &Row<'_>) -> Result<Wait, StoreError> {
    let damaged = || StoreError::Damaged("approval");
    Ok(Wait {
        action: outbox::one(db, &row.get::<_, String>(0)?)?.ok_or_else(damaged)?,
        suspects: serde_json::from_str(&row.get::<_, String>(2)?).map_err(|_| damaged())?,
        subject: row.get(3)?,
        quorum: row.get(4)?,
        ttl_us: row.get(5)?,
        state: row.get(6)?,
        target_state: row.get(7)?,
        used_state: row.get(8)?,
        request: row.get(9)?,
        expires_us: row.get(10)?,
    })
}

/// The target as an approval binds to it: of a key that is here, its state; else its name.
async fn target_state(kms: &dyn Control, action: &Action) -> Result<String, ControlError> {
    let is_key = action.target.starts_with("arn:aws:kms:") && action.target.contains(":key/");
    if !is_key || aws::is_there(action) {
        return Ok(named_state(&action.target));
    }
    steps::state_digest(kms, &action.target).await
}

/// All of the plan that matters, in one name.
fn plan_digest(proposal: &Proposal) -> String {
    let (version, generation) = (proposal.playbook_version.to_string(), proposal.generation.to_string());
    subject(&[
        "response",
        &proposal.id,
        proposal.incident.as_str(),
        &proposal.playbook,
        &version,
        &proposal.step,
        proposal.kind.as_str(),
        &proposal.target,
        &generation,
        &proposal.cause,
        &proposal.args.to_string(),
    ])
}

/// Whoever is in the evidence: principals, and the access keys they came with.
fn suspects(alert: &VerifiedAlert) -> BTreeSet<String> {
    let named = alert.calls().iter().flat_map(|call| {
        let identity = &call.event.user_identity;
        let issuer = identity.session_context.as_ref().and_then(|context| context.session_issuer.as_ref());
        [call.principal.clone(), identity.access_key_id.clone(), issuer.map(|issuer| issuer.arn.clone())]
    });
    let all = alert.principal().map(str::to_owned).into_iter().chain(named.flatten());
    all.take(SUSPECTS_MAX).collect()
}

fn page_kind(kind: &str, action: &Action) -> String {
    format!("{kind}-{}", action.id.get(..12).unwrap_or(&action.id))
}

fn state(body: &Value) -> String {
    body.get("State").and_then(Value::as_str).unwrap_or_default().to_owned()
}
