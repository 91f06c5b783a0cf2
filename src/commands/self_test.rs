//! The responder's hourly self-test, where `keytrail canary self-test` has made its credential.

use super::Settings;
use super::node::SELF_TEST_FILE;
use crate::config::Config;
use anyhow::Context;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::clock::SystemClock;
use keytrail_responder::act::SignedControl;
use keytrail_responder::self_test::{self, Outcome, SelfTest};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The first test after a start waits for the parts to find each other.
const FIRST_AFTER: Duration = Duration::from_secs(60);

/// Runs for as long as it is polled.
pub(super) async fn regularly(dir: &Path, every: Option<Duration>) {
    let Some(every) = every else { return std::future::pending().await };
    let mut wait = FIRST_AFTER.min(every);
    loop {
        tokio::time::sleep(wait).await;
        wait = every;
        if !dir.join(SELF_TEST_FILE).exists() {
            continue;
        }
        match once(dir).await {
            Ok(test) if test.outcome == Outcome::Failed => {
                tracing::error!(reason = test.reason.as_deref(), "the self-test failed");
            }
            Ok(test) => {
                tracing::info!(outcome = test.outcome.as_str(), contained_us = test.contained_micros, "self-test")
            }
            Err(error) => tracing::error!("the self-test could not be run: {error:#}"),
        }
    }
}

/// One test of the folder's running service.
pub(super) async fn once(dir: &Path) -> anyhow::Result<SelfTest> {
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let control = |credentials| {
        let (endpoint, trust) = Settings::endpoint(dir, &config)?;
        SignedControl::new(&endpoint, trust, credentials, &config.node.region).context("make a client")
    };
    let caller = Credentials::read(&dir.join(SELF_TEST_FILE), "default").context("read the self-test's key")?;
    let responder = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let (caller, kms) = (control(caller)?, Arc::new(control(responder)?));
    Ok(self_test::run(dir, &caller, kms, Arc::new(SystemClock)).await?)
}
