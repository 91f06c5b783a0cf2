//! The public keys of identity providers: from a file that the administrator named, or from an issuer on this machine.
//!
//! Nothing is fetched from elsewhere, and a loopback issuer only from its own address, without proxy or redirect, within
//! bounds of size and time. A stranger's token can make the node look again at most once a minute for each provider that an
//! administrator registered. Keys that cannot be had for ten minutes are not used any more.

use super::Algorithm;
use crate::file::read_bounded;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use reqwest::{Url, redirect};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Largest file or answer; large providers have ten keys of one KiB.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;
/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 64;
/// For one request to an issuer on this machine.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks for one issuer, whatever strangers send.
const LOOK_US: u64 = 60 * 1_000_000;
/// A key that its issuer took back is believed no longer than this.
const AGE_MAX_US: u64 = 600 * 1_000_000;
/// Issuers remembered; beyond, all are looked up anew.
const ISSUERS_MAX: usize = 1_024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// Neither a file nor on this machine.
    #[error("no key file is configured for the issuer, and it is not on this machine")]
    NoSource,
    /// The file or the issuer did not give keys.
    #[error("the issuer's keys cannot be read")]
    Unavailable,
    /// The issuer has no such key, or had none a moment ago.
    #[error("the issuer has no key with the token's id")]
    UnknownKey,
}

/// Keys of all issuers, read when they are needed.
pub(crate) struct IssuerKeys {
    /// By the issuer's URL.
    files: BTreeMap<String, PathBuf>,
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Jwk>,
    read_us: Option<u64>,
    tried_us: Option<u64>,
}

/// A public key as issuers publish it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Jwk {
    kid: Option<String>,
    kty: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeys {
    /// With files for issuers that are not on this machine.
    pub(crate) fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self { files, known: Mutex::default() }
    }

    /// The issuer's key of this id.
    pub(super) async fn key(&self, issuer: &str, kid: &str, now_us: u64) -> Result<Jwk, KeysError> {
        let slot = self.slot(issuer);
        let mut known = slot.lock().await;
        let fresh = known.read_us.is_some_and(|at_us| now_us.abs_diff(at_us) < AGE_MAX_US);
        if let Some(key) = known.find(kid).filter(|_| fresh) {
            return Ok(key.clone());
        }
        if known.tried_us.is_some_and(|at_us| now_us.abs_diff(at_us) < LOOK_US) {
            return Err(if fresh { KeysError::UnknownKey } else { KeysError::Unavailable });
        }
        known.tried_us = Some(now_us);
        known.keys = self.read(issuer).await.inspect_err(|error| tracing::warn!(issuer, %error, "no keys"))?;
        known.read_us = Some(now_us);
        known.find(kid).cloned().ok_or(KeysError::UnknownKey)
    }

    fn slot(&self, issuer: &str) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock();
        if known.len() >= ISSUERS_MAX && !known.contains_key(issuer) {
            known.clear();
        }
        Arc::clone(known.entry(issuer.to_owned()).or_default())
    }

    async fn read(&self, issuer: &str) -> Result<Vec<Jwk>, KeysError> {
        let document = match (self.files.get(issuer), loopback(issuer)) {
            (Some(file), _) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || read_bounded(&file, DOCUMENT_BYTES_MAX)).await;
                read.ok().and_then(|read| read.ok().flatten()).ok_or(KeysError::Unavailable)?
            }
            (None, Some(url)) => fetch_keys(issuer, &url).await.ok_or(KeysError::Unavailable)?,
            (None, None) => return Err(KeysError::NoSource),
        };
        let set: KeySet = serde_json::from_slice(&document).map_err(|_| KeysError::Unavailable)?;
        // Keys of kinds that we do not read do not make the others useless.
        Ok(set.keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value(key).ok()).collect())
    }
}

impl Known {
    fn find(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid.as_deref() == Some(kid))
    }
}

impl Jwk {
    /// Whether this key made the signature, by an algorithm that it is for.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let (kty, alg) = match algorithm {
            Algorithm::Rs256 => ("RSA", "RS256"),
            Algorithm::Es256 => ("EC", "ES256"),
        };
        let usable = self.kty == kty
            && self.alg.as_deref().is_none_or(|own| own == alg)
            && self.used_for.as_deref().is_none_or(|own| own == "sig");
        usable && self.check(algorithm, message, signature).is_some()
    }

    fn check(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<()> {
        let bytes = |member: &Option<String>| URL_SAFE_NO_PAD.decode(member.as_deref()?).ok();
        match algorithm {
            Algorithm::Rs256 => {
                let key = RsaPublicKeyComponents { n: bytes(&self.n)?, e: bytes(&self.e)? };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).ok()
            }
            Algorithm::Es256 => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                if self.crv.as_deref() != Some("P-256") || x.len() != 32 || y.len() != 32 {
                    return None;
                }
                let point = [&[4][..], &x, &y].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).ok()
            }
        }
    }
}

/// Whether an issuer's URL names this machine by its address: names could resolve to another one.
pub(crate) fn is_loopback(issuer: &str) -> bool {
    loopback(issuer).is_some()
}

fn loopback(issuer: &str) -> Option<Url> {
    let url = Url::parse(issuer).ok()?;
    let host: IpAddr = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (url.scheme() == "http" && host.is_loopback() && plain).then_some(url)
}

/// The key set by way of the discovery document, which must be the issuer's own and stay at its address.
async fn fetch_keys(issuer: &str, url: &Url) -> Option<Vec<u8>> {
    let building = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(FETCH_TIMEOUT);
    let http = building.build().ok()?;
    let discovery = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let found: Discovery = serde_json::from_slice(&fetch(&http, &discovery).await?).ok()?;
    let keys = loopback(&found.jwks_uri)?;
    let same_place = keys.host_str() == url.host_str() && keys.port() == url.port();
    if found.issuer != issuer || !same_place {
        return None;
    }
    fetch(&http, keys.as_str()).await
}

async fn fetch(http: &reqwest::Client, url: &str) -> Option<Vec<u8>> {
    let mut response = http.get(url).send().await.ok().filter(|response| response.status().is_success())?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_is_one() {
        for issuer in ["http://127.0.0.1:8080", "http://127.0.0.2/realm", "http://[::1]:80/"] {
            assert!(is_loopback(issuer), "{issuer}");
        }
        for issuer in [
            "https://127.0.0.1",
            "http://localhost:80",
            "http://10.0.0.1",
            "http://a:b@127.0.0.1",
            "http://127.0.0.1/?x",
            "http://127.0.0.1.example.org",
            "ftp://127.0.0.1",
            "",
        ] {
            assert!(!is_loopback(issuer), "{issuer}");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_once_a_minute_and_not_believed_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let issuer = "https://issuer.example.org";
        let keys = IssuerKeys::new([(issuer.to_owned(), file.clone())].into());
        let set = |kid: &str| format!(r#"{{"keys":[{{"kty":"strange"}},{{"kid":"{kid}","kty":"RSA"}},{{"kid":7}}]}}"#);
        let minute = LOOK_US;
        assert!(matches!(keys.key(issuer, "one", minute).await, Err(KeysError::Unavailable)));
        std::fs::write(&file, set("one")).unwrap();
        assert!(matches!(keys.key(issuer, "one", minute + 1).await, Err(KeysError::Unavailable)), "not again so soon");
        assert!(keys.key(issuer, "one", 2 * minute).await.is_ok());
        std::fs::write(&file, set("two")).unwrap();
        assert!(matches!(keys.key(issuer, "two", 2 * minute + 1).await, Err(KeysError::UnknownKey)));
        assert!(keys.key(issuer, "one", 3 * minute).await.is_ok(), "known and fresh");
        assert!(keys.key(issuer, "two", 3 * minute).await.is_ok());
        assert!(matches!(keys.key(issuer, "one", 3 * minute + 1).await, Err(KeysError::UnknownKey)));
        std::fs::write(&file, vec![b' '; 100_000]).unwrap();
        assert!(keys.key(issuer, "two", 4 * minute).await.is_ok());
        assert!(matches!(keys.key(issuer, "two", 3 * minute + AGE_MAX_US).await, Err(KeysError::Unavailable)));
        let elsewhere = keys.key("https://elsewhere.example.org", "one", minute).await;
        assert!(matches!(elsewhere, Err(KeysError::NoSource)));
    }
}
