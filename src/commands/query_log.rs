//! The record of a query of the shell, as of the servers: in the log before a row is printed.
//!
//! The folder's node is told as by its trail. Where no node runs there is no log to write to: that is said on stderr, and
//! whoever can read the folder could read it without this command, too. A node that is there and does not take the record
//! ends the query.

use super::{Settings, operator};
use crate::config::Config;
use anyhow::Context;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientError, ClientOptions};
use keytrail_trail::serve::{Door, QueryLog, RecordError, Recorded, Who};
use std::path::Path;
use std::sync::Arc;

/// Where the queries of one run of the shell are recorded.
pub(crate) struct ShellLog {
    log: Option<Arc<dyn QueryLog>>,
    who: Who,
}

impl ShellLog {
    /// Finds the folder's node.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let who = Who {
            user: operator(),
            door: Door::Shell,
            client_address: String::new(),
            application: concat!("keytrail sql ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        Ok(Self { log: client(dir)?.map(|client| Arc::new(client) as Arc<dyn QueryLog>), who })
    }

    /// None where no node runs, which is said the first time.
    pub(crate) async fn begin(&mut self, statement: &str) -> anyhow::Result<Option<Recorded>> {
        let nobody = match &self.log {
            None => return Ok(None),
            Some(log) => match Recorded::begin(log, &self.who, statement, &[]).await {
                Ok(recorded) => return Ok(Some(recorded)),
                Err(RecordError(error)) if error.is_nobody_there() => error,
                Err(error) => return Err(error.into()),
            },
        };
        self.log = None;
        unrecorded(&nobody);
        Ok(None)
    }
}

/// The trail's client; none for a folder whose node never ran, or of which somebody has only the records.
fn client(dir: &Path) -> anyhow::Result<Option<Client>> {
    let found = || -> anyhow::Result<_> {
        let config = Config::read(&dir.join("keytrail.toml"))?;
        let (endpoint, trust) = Settings::endpoint(dir, &config)?;
        Ok((endpoint, trust, Credentials::read(&dir.join("service-credentials"), "trail")?, config.node.region))
    };
    let (endpoint, trust, credentials, region) = match found() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("no node to record queries with: {}", keytrail_kms::describe(error.as_ref()));
            return Ok(None);
        }
    };
    let options = ClientOptions { trust, ..ClientOptions::default() };
    Client::with_options(&endpoint, credentials, region, options).context("make a client").map(Some)
}

fn unrecorded(error: &ClientError) {
    tracing::warn!(%error, "no node runs here, so queries are not recorded");
}
