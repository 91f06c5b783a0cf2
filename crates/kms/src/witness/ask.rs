//! One witness as a node sees it: what it is asked, and what of its answers is believed.
//!
//! A cosignature is believed when it verifies. A size only says where a proof has to begin. That the log was rewritten or
//! rolled back is believed only from a note under the log's own key: a witness could otherwise stop the node by saying so.

use super::record::origin_hash;
use crate::chain::ConsistencyProof;
use crate::chain::checkpoint::Checkpoint;
use crate::chain::consistency::GrowthText;
use crate::chain::cosignature::Note;
use crate::chain::transition::LogKeys;
use crate::chain::trust_policy::Witness;
use reqwest::{Certificate, StatusCode, Url, redirect};
use std::time::Duration;

/// For one request to a witness, connection included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer read: a note.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why a witness has not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its address.
    #[error("address of the witness {name} is no https one, nor http on loopback")]
    Address {
        /// Its name in the policy.
        name: String,
    },
    /// Certificates or the client.
    #[error("make a client for the witnesses")]
    Client(#[source] reqwest::Error),
    /// It does not answer.
    #[error("witness does not answer")]
    Away(#[source] reqwest::Error),
    /// It does not answer in time.
    #[error("witness does not answer in time")]
    Late,
    /// Another status than those of the protocol for a log that it watches.
    #[error("witness answers {0}")]
    Status(StatusCode),
    /// An answer that is none.
    #[error("witness answers nothing that can be used: {0}")]
    Answer(&'static str),
    /// It says that it has seen another log, and does not prove it.
    #[error("witness says that the log was rolled back or rewritten, and shows no checkpoint for it")]
    Unproved,
    /// The proof cannot be made.
    #[error("proof cannot be made: {0}")]
    Proof(String),
}

/// What a witness answers to a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Its cosignature line, verified.
    Cosigned(String),
    /// It knows another size than the proof is from.
    Known(u64),
    /// The proof does not lead from what it knows.
    Inconsistent,
}

/// A witness that can be asked.
pub(crate) struct Asked {
    http: reqwest::Client,
    witness: Witness,
    url: Url,
}

impl Asked {
    /// A client of a witness with an address; None for one without.
    pub(crate) fn new(witness: &Witness, roots_pem: Option<&[u8]>) -> Result<Option<Self>, AskError> {
        let Some(url) = &witness.url else { return Ok(None) };
        let address = || AskError::Address { name: witness.name.clone() };
        let url = Url::parse(url).map_err(|_| address())?;
        let loopback = match url.host_str() {
            Some("localhost") => true,
            Some(host) => host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(address());
        }
        let mut builder = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(REQUEST_TIMEOUT);
        if let Some(pem) = roots_pem {
            for root in Certificate::from_pem_bundle(pem).map_err(AskError::Client)? {
                builder = builder.add_root_certificate(root);
            }
        }
        let http = builder.no_proxy().build().map_err(AskError::Client)?;
        Ok(Some(Self { http, witness: witness.clone(), url }))
    }

    /// Its name in the policy.
    pub(crate) fn name(&self) -> &str {
        &self.witness.name
    }

    /// Hands over a signed note with a proof from `old`.
    pub(crate) async fn submit(&self, note: &str, old: u64, proof: ConsistencyProof) -> Result<Answered, AskError> {
        let body = GrowthText { old, proof, head: note }.write();
        let sent = self.http.post(self.at("add-checkpoint")).body(body).send().await;
        let mut response = sent.map_err(AskError::Away)?;
        let status = response.status();
        let text = text(&mut response).await?;
        match status {
            StatusCode::OK => self.cosignature(note, &text).map(Answered::Cosigned),
            StatusCode::CONFLICT => {
                let size = text.trim_end_matches('\n').parse();
                size.map(Answered::Known).map_err(|_| AskError::Answer("its size is no number"))
            }
            StatusCode::UNPROCESSABLE_ENTITY => Ok(Answered::Inconsistent),
            status => Err(AskError::Status(status)),
        }
    }

    /// The newest checkpoint under `log`'s own keys that it has cosigned; None if it knows none.
    pub(crate) async fn newest(&self, log: &LogKeys) -> Result<Option<Checkpoint>, AskError> {
        let sent = self.http.get(self.at(&format!("{}/checkpoint", origin_hash(log.current().name())))).send().await;
        let mut response = sent.map_err(AskError::Away)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(AskError::Status(status)),
        }
        let note = text(&mut response).await?;
        log.verify(&note).map(Some).map_err(|_| AskError::Answer("its checkpoint is not under the log's key"))
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The line of an answer that is by this witness's key; other lines are passed over.
    fn cosignature(&self, note: &str, answer: &str) -> Result<String, AskError> {
        let body = Note::parse(note).map_err(|_| AskError::Answer("no note was handed over"))?.body;
        for line in answer.lines() {
            match self.witness.key.time_in(body, line) {
                Ok(Some(_)) => return Ok(format!("{line}\n")),
                Ok(None) => {}
                Err(_) => return Err(AskError::Answer("its cosignature does not verify")),
            }
        }
        Err(AskError::Answer("no cosignature by its key"))
    }
}

async fn text(response: &mut reqwest::Response) -> Result<String, AskError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(AskError::Away)? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(AskError::Answer("it is longer than 64 KiB"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| AskError::Answer("it is not text"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::cosignature::CosigningKey;

    fn witness(url: &str) -> Witness {
        let key = CosigningKey::from_seed("w", &[2; 32]).unwrap().cosigner().clone();
        Witness { name: "W".to_owned(), key, url: Some(url.to_owned()) }
    }

    #[test]
    fn addresses_are_tls_or_loopback() {
        for (url, good) in [
            ("https://witness.example/w", true),
            ("http://127.0.0.1:7620", true),
            ("http://localhost/witness", true),
            ("http://[::1]:1/", true),
            ("http://witness.example/w", false),
            ("http://127.0.0.1.example/", false),
            ("ftp://127.0.0.1/", false),
            ("witness.example", false),
        ] {
            assert_eq!(Asked::new(&witness(url), None).is_ok(), good, "{url}");
        }
        assert!(Asked::new(&Witness { url: None, ..witness("") }, None).unwrap().is_none());
    }

    #[test]
    fn paths_follow_the_prefix() {
        for (url, path) in [("https://w.example", "/add-checkpoint"), ("https://w.example/a/", "/a/add-checkpoint")] {
            let asked = Asked::new(&witness(url), None).unwrap().unwrap();
            assert_eq!(asked.at("add-checkpoint").path(), path);
        }
    }
}
