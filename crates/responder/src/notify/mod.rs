//! Tells people: one mail (and one webhook call) for all of an incident, a follow-up only when something new was done.
//!
//! An incident is told after it was quiet for a while, or after a longest wait; then `render` writes text and payload
//! once, `queue` stores them with a stable Message-ID, and each channel's own loop delivers with growing waits until it
//! succeeds or gives up. None of this is ever waited for by an action.

pub mod queue;
pub mod render;
pub mod smtp;
pub mod webhook;

use crate::act::worker::scatter;
use crate::config::NotifySettings;
use crate::guard::micros;
use crate::notify::queue::Notice;
use crate::store::{Micros, Store, StoreError};
use async_trait::async_trait;
use keytrail_kms::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

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
    /// The receiver will never take it.
    #[error("{0}")]
    Never(String),
}

/// Somewhere that notices go.
#[async_trait]
pub trait Channel: Send + Sync {
    /// `mail` or `webhook`.
    fn name(&self) -> &'static str;
    /// Delivers once; success means that the receiver took responsibility.
    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError>;
}

/// Renders and delivers.
pub struct Notifier {
    store: Store,
    clock: Arc<dyn Clock>,
    settings: NotifySettings,
    channels: Vec<Arc<dyn Channel>>,
    /// Rung when there may be something to tell.
    pub(crate) told: Arc<Notify>,
}

impl Notifier {
    /// Without channels, incidents are still counted as told, to nobody.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        settings: NotifySettings,
        channels: Vec<Arc<dyn Channel>>,
    ) -> Arc<Self> {
        Arc::new(Self { store, clock, settings, channels, told: Arc::new(Notify::new()) })
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

    /// Writes the notices of incidents that have been quiet long enough.
    pub async fn write_due(&self) -> Result<usize, StoreError> {
        let now = self.now_us();
        let (wait, longest) = (micros(self.settings.group_wait), micros(self.settings.group_max));
        let due = self.store.read(move |db| queue::incidents_to_tell(db, now, wait, longest)).await?;
        let channels: Vec<&'static str> = self.channels.iter().map(|channel| channel.name()).collect();
        let told = due.len();
        for id in due {
            let channels = channels.clone();
            self.store.write(move |tx| queue::write_incident(tx, &id, &channels, now)).await?;
        }
        Ok(told)
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
                _ = stop.changed() => {}
            }
        }
    }

    /// Delivers what is due on this channel; returns how many were tried.
    pub async fn deliver_due(&self, channel: &dyn Channel) -> Result<usize, StoreError> {
        let (name, now) = (channel.name(), self.now_us());
        let due = self.store.read(move |db| queue::due(db, name, now, NOTICES_MAX)).await?;
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
        let given_up = now.saturating_sub(notice.created_us) > micros(self.settings.retry_for);
        match result {
            Ok(()) => {
                tracing::info!(
                    incident_id = notice.incident.as_ref().map(super::incident::IncidentId::as_str),
                    channel = notice.channel,
                    message_id = notice.message_id,
                    outcome = "sent",
                    "notice"
                );
                self.store.write(move |tx| queue::sent(tx, &row, now)).await
            }
            Err(DeliveryError::Later(reason)) if !given_up => {
                tracing::warn!(
                    channel = notice.channel,
                    message_id = notice.message_id,
                    reason,
                    "notice is sent later"
                );
                let exponent = notice.attempts.min(16);
                let wait = RETRY_FIRST_US.saturating_mul(1 << exponent).min(RETRY_MAX_US);
                let at = now.saturating_add(scatter(wait));
                self.store.write(move |tx| queue::later(tx, &row, &reason, at)).await
            }
            Err(error) => {
                tracing::error!(channel = notice.channel, message_id = notice.message_id, %error, "notice was given up");
                let reason = error.to_string();
                self.store.write(move |tx| queue::dead(tx, &row, &reason, now)).await
            }
        }
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}
