//! Tells people: who, by the routes; once for all of an incident, then in numbered updates when more was done.
//!
//! `incident::tell` says that there is news, `tell` decides by `route`, `silence` and inhibition who is told when,
//! `render` and the channels' own files write text and payloads, `queue` stores them with a stable Message-ID, and each
//! channel's own loop delivers with growing waits until it succeeds or gives up. None of this is ever waited for by an
//! action.

pub mod dkim;
pub mod egress;
pub(crate) mod facts;
mod heartbeat;
pub mod http;
pub mod ledger;
mod ocsf;
mod pagerduty;
pub mod probe;
pub mod queue;
pub mod receivers;
pub mod render;
pub mod route;
pub mod silence;
mod slack;
pub mod smtp;
mod sns;
mod syslog;
mod teams;
pub(crate) mod tell;
pub mod webhook;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod smtp_tests;
#[cfg(test)]
mod tell_tests;

use crate::act::worker::scatter;
use crate::guard::micros;
use crate::incident::IncidentId;
use crate::notify::queue::Notice;
use crate::notify::receivers::{Kind, Receiver};
use crate::notify::tell::Plan;
use crate::store::{Micros, Store, StoreError};
use async_trait::async_trait;
use keytrail_kms::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

pub(crate) use facts::remember;
pub use smtp::Mailer;
pub use webhook::Webhook;

/// Longest time without looking for something to tell.
const POLL: Duration = Duration::from_millis(200);
/// First wait after a failed delivery.
const RETRY_FIRST_US: Micros = 1_000_000;
/// Longest wait between deliveries.
const RETRY_MAX_US: Micros = 300_000_000;
/// Notices delivered in one go.
const NOTICES_MAX: u32 = 16;

/// Why a notice was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Another attempt may succeed.
    #[error("{0}")]
    Later(String),
    /// Another attempt may succeed, but not before this wait: the receiver said so.
    #[error("{0}, not before {1:?}")]
    After(String, Duration),
    /// The receiver will never take it.
    #[error("{0}")]
    Never(String),
}

/// Somewhere that notices go.
#[async_trait]
pub trait Channel: Send + Sync {
    /// The receiver's name.
    fn name(&self) -> &str;
    /// What it is.
    fn kind(&self) -> Kind;
    /// Addresses that each get a delivery of their own; none where the receiver is one.
    fn recipients(&self) -> Vec<String> {
        Vec::new()
    }
    /// Delivers once; success means that the receiver took responsibility.
    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError>;
}

/// Renders and delivers.
pub struct Notifier {
    store: Store,
    clock: Arc<dyn Clock>,
    plan: Arc<Plan>,
    channels: Vec<Arc<dyn Channel>>,
    /// Rung when there may be something to tell.
    pub(crate) told: Arc<Notify>,
    /// Rung when something was written for delivery.
    written: Notify,
}

impl Notifier {
    /// Remembers the channels' receivers in the store. Without any, incidents are still counted as told, to nobody.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        settings: &crate::config::Settings,
        channels: Vec<Arc<dyn Channel>>,
    ) -> Result<Arc<Self>, StoreError> {
        let receivers: Vec<Receiver> = channels
            .iter()
            .map(|channel| Receiver {
                name: channel.name().to_owned(),
                kind: channel.kind(),
                recipients: channel.recipients(),
            })
            .collect();
        let now = Micros::try_from(clock.now_us()).unwrap_or(Micros::MAX);
        store.write_now(|tx| queue::set_receivers(tx, &receivers, now))?;
        let plan = Plan {
            route: settings.route.clone(),
            inhibit: settings.inhibit.clone(),
            settings: settings.notify.clone(),
            receivers,
        };
        let (plan, told) = (Arc::new(plan), Arc::new(Notify::new()));
        Ok(Arc::new(Self { store, clock, plan, channels, told, written: Notify::new() }))
    }

    /// Runs until `stop` turns true.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut deliveries = tokio::task::JoinSet::new();
        for channel in &self.channels {
            deliveries.spawn(Arc::clone(&self).deliver_all(Arc::clone(channel), stop.clone()));
        }
        while !*stop.borrow() {
            if let Err(error) = self.write_due().await {
                tracing::error!(error = &error as &dyn std::error::Error, "notices cannot be written");
            }
            tokio::select! {
                () = self.told.notified() => {}
                () = tokio::time::sleep(POLL) => {}
                _ = stop.changed() => {}
            }
        }
        while deliveries.join_next().await.is_some() {}
    }

    /// Writes all notices that are due by now; returns how many incidents were looked at.
    pub async fn write_due(&self) -> Result<usize, StoreError> {
        let (now, plan) = (self.now_us(), Arc::clone(&self.plan));
        if !self.store.read(move |db| tell::has_work(db, &plan, now)).await? {
            return Ok(0);
        }
        let plan = Arc::clone(&self.plan);
        let looked_at = self
            .store
            .write(move |tx| {
                tell::take_news(tx, &plan, now)?;
                tell::remind(tx, now)?;
                tell::rescue(tx, &plan, now)?;
                heartbeat::write_due(tx, &plan, now)?;
                tell::write_due(tx, &plan, now)
            })
            .await?;
        self.written.notify_waiters();
        Ok(looked_at)
    }

    async fn deliver_all(self: Arc<Self>, channel: Arc<dyn Channel>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            match self.deliver_due(channel.as_ref()).await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "notices cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.written.notified() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Delivers what is due on this channel; returns how many were tried.
    pub async fn deliver_due(&self, channel: &dyn Channel) -> Result<usize, StoreError> {
        let (name, now) = (channel.name().to_owned(), self.now_us());
        let due = self.store.read(move |db| queue::due(db, &name, now, NOTICES_MAX)).await?;
        for notice in &due {
            let result = channel.deliver(notice).await;
            if result.is_ok() {
                fail::fail_point!("responder::after_mail", |_| std::process::abort());
            }
            self.write_result(notice, result).await?;
        }
        Ok(due.len())
    }

    async fn write_result(&self, notice: &Notice, result: Result<(), DeliveryError>) -> Result<(), StoreError> {
        let (row, now) = (notice.clone(), self.now_us());
        let given_up = now.saturating_sub(notice.created_us) > micros(self.plan.settings.retry_for);
        let failure = match result {
            Ok(()) => {
                tracing::info!(
                    incident_id = notice.incident.as_ref().map(IncidentId::as_str),
                    channel = notice.channel,
                    message_id = notice.message_id,
                    outcome = "sent",
                    "notice"
                );
                return self.store.write(move |tx| queue::sent(tx, &row, now)).await;
            }
            Err(failure) => failure,
        };
        let at_least = match &failure {
            DeliveryError::Never(_) => None,
            DeliveryError::Later(_) => Some(0),
            DeliveryError::After(_, wait) => Some(micros(*wait)),
        };
        let (channel, message_id, reason) = (&notice.channel, &notice.message_id, failure.to_string());
        match at_least.filter(|_| !given_up) {
            Some(at_least) => {
                tracing::warn!(channel, message_id, reason, "notice is sent later");
                let exponent = notice.attempts.min(16);
                let wait = RETRY_FIRST_US.saturating_mul(1 << exponent).min(RETRY_MAX_US);
                let at = now.saturating_add(scatter(wait).max(at_least));
                self.store.write(move |tx| queue::later(tx, &row, &reason, at, now)).await
            }
            None => {
                tracing::error!(channel, message_id, reason, "notice was given up");
                self.store.write(move |tx| queue::dead(tx, &row, &reason, now)).await
            }
        }
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}
