//! A log over HTTP: any server of C2SP tlog-tiles, a node's own or a static folder behind a web server.
//!
//! Nothing it says is believed: `view` checks all of it against the log's key.

use super::view::TileSource;
use super::{LogView, TilesError};
use crate::chain::{Tile, VerifyKey};
use reqwest::{Client, StatusCode};
use std::time::Duration;
use tokio::runtime::Handle;

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer read; a full bundle has 28,672 bytes, a note at most 64 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The source. Its methods block: not for a thread of the runtime.
#[derive(Debug)]
pub struct HttpTiles {
    base: String,
    client: Client,
    runtime: Handle,
}

impl HttpTiles {
    /// The log below `base`, such as `http://host/log/<log id>`.
    pub fn new(base: &str, runtime: Handle) -> Result<Self, TilesError> {
        let base = base.trim_end_matches('/').to_owned();
        let client = Client::builder().timeout(TIMEOUT).build();
        let client = client.map_err(|error| TilesError::Fetch { url: base.clone(), found: error.to_string() })?;
        Ok(Self { base, client, runtime })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, TilesError> {
        let url = format!("{}/{path}", self.base);
        self.runtime.block_on(self.get(&url)).map_err(|found| TilesError::Fetch { url, found })
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut response = self.client.get(url).send().await.map_err(|error| error.without_url().to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("the server says {}", response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(format!("more than {BODY_BYTES_MAX} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl TileSource for HttpTiles {
    fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError> {
        match self.read(&tile.to_string()) {
            // A server may drop a partial tile once it has the full one.
            Err(error) if tile != tile.full() => {
                let mut bytes = self.read(&tile.full().to_string()).map_err(|_| error)?;
                bytes.truncate(tile.bytes());
                Ok(bytes)
            }
            read => read,
        }
    }
}

impl LogView<HttpTiles> {
    /// The log under the newest checkpoint that its server has.
    pub fn of_url(base: &str, key: &VerifyKey, runtime: Handle) -> Result<Self, TilesError> {
        let source = HttpTiles::new(base, runtime)?;
        let note = String::from_utf8(source.read("checkpoint")?);
        let note =
            note.map_err(|_| TilesError::Fetch { url: base.to_owned(), found: "checkpoint is no text".to_owned() })?;
        Self::new(source, note, key)
    }
}
