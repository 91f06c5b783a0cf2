//! The link in a mail, behind which one incident can be dealt with: signed, until a time, each deed once.
//!
//! `<public_url>/i/<incident>/ack?e=<Unix seconds>&n=<reopenings>&m=<hex>`, where m is HMAC-SHA256 under the key in
//! `DIR/incident-link.key` (32 random bytes in hex, 0600) over `CONTEXT` and incident, `ack`, e and n, each with its u32
//! length (big-endian) before it. It names no receiver. Whoever reads a mail can use it, so it acts on nothing but the
//! incident's record, and on that a few times at most; it ends when it expires, and when the incident is closed, merged or
//! reopened: an old mail must not hide what came later. Each form of the page carries the token, which no other site has.

use crate::file::read_private;
use crate::incident::{self, Deed, DeedError, IncidentDetail, IncidentId, person};
use crate::store::{Micros, Store, StoreError};
use aws_lc_rs::hmac;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// First bytes of what is signed.
const CONTEXT: &str = "keytrail incident link v1";
/// Name of the key's file in the data folder.
const KEY_FILE: &str = "incident-link.key";
/// 64 digits and what an editor adds.
const KEY_FILE_BYTES_MAX: usize = 100;
/// How long a link works.
const LIFE_SECS: i64 = 7 * 86_400;
/// Who does it by a link.
const BY: &str = "the link of a mail";

/// Why a link cannot be made or judged.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The key's file.
    #[error("key of mail links {path} cannot be used")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store failed.
    #[error("mail link cannot be judged")]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for LinkError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Remembers where people reach the listener: mails written from now on have links to there, or none.
pub fn set_public_url(tx: &Transaction<'_>, url: Option<&str>) -> Result<(), StoreError> {
    match url {
        Some(url) => tx.execute(
            "INSERT INTO meta(key, value) VALUES ('public_url', ?1) ON CONFLICT(key) DO UPDATE SET value = ?1",
            [url.trim_end_matches('/')],
        )?,
        None => tx.execute("DELETE FROM meta WHERE key = 'public_url'", [])?,
    };
    Ok(())
}

/// The link that acknowledges this incident; none where people cannot reach the listener. For whoever writes a mail, in
/// the transaction that writes it.
pub fn acknowledge(db: &Connection, id: &IncidentId, now_us: Micros) -> Result<Option<String>, LinkError> {
    let url: Option<String> =
        db.query_row("SELECT value FROM meta WHERE key = 'public_url'", [], |row| row.get(0)).optional()?;
    let Some(url) = url else { return Ok(None) };
    let sql = "SELECT reopenings FROM incidents WHERE id = ?1";
    let Some(reopenings) = db.query_row(sql, [id.as_str()], |row| row.get::<_, u32>(0)).optional()? else {
        return Ok(None);
    };
    let expires_s = now_us / 1_000_000 + LIFE_SECS;
    let mac = hmac::sign(&key(db)?, &message(id, expires_s, reopenings));
    Ok(Some(format!("{url}/i/{id}/ack?e={expires_s}&n={reopenings}&m={}", hex::encode(mac))))
}

/// What a link is good for, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Acknowledge,
    Assign,
    Note,
    Close,
    Merge,
}

impl Use {
    const ALL: [Self; 5] = [Self::Acknowledge, Self::Assign, Self::Note, Self::Close, Self::Merge];

    /// The last part of the path, as over HTTP.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledge => "ack",
            Self::Assign => "assign",
            Self::Note => "note",
            Self::Close => "close",
            Self::Merge => "merge",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// Its mark among the used ones; that of an acknowledgement is as it was when there was nothing else.
    fn mark(self, asked: &Asked) -> String {
        let mac = hex::encode(&asked.mac);
        if self == Self::Acknowledge { mac } else { format!("{mac}/{}", self.as_str()) }
    }
}

/// An incident behind a good link, and what is left to be done by it.
pub(super) struct Opened {
    pub(super) detail: Box<IncidentDetail>,
    pub(super) left: Vec<Use>,
}

/// Why not.
#[derive(Debug)]
pub(super) enum Refused {
    Invalid,
    Expired,
    Used,
    Over,
    Deed(DeedError),
}

type Judged<T> = Result<Result<T, Refused>, LinkError>;

/// Judges a link by its query; changes nothing.
pub(super) fn look(store: &Store, id: &IncidentId, query: &str, now_us: Micros) -> Judged<Opened> {
    let asked = match genuine(store, id, query, now_us)? {
        Ok(asked) => asked,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(store.read_now(|db| opened(db, id, &asked))?)
}

/// Does what a link is good for; the incident as it is then, of a merged one that which it is part of.
pub(super) fn act(
    store: &Store,
    id: &IncidentId,
    query: &str,
    (wanted, deed): (Use, &Deed),
    now_us: Micros,
) -> Judged<Opened> {
    // Before the file is asked for: strangers do not keep anybody from writing.
    let asked = match genuine(store, id, query, now_us)? {
        Ok(asked) => asked,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(store.write_now(|tx| {
        match opened(tx, id, &asked)? {
            Err(refused) => return Ok(Err(refused)),
            Ok(opened) if !opened.left.contains(&wanted) => return Ok(Err(Refused::Used)),
            Ok(_) => {}
        }
        // What is refused has changed nothing and uses nothing up.
        let detail = match person::act_in(tx, id.as_str(), BY, deed, now_us) {
            Ok(detail) => Box::new(detail),
            Err(DeedError::Store(error)) => return Err(error),
            Err(refused) => return Ok(Err(Refused::Deed(refused))),
        };
        tx.execute("DELETE FROM used_links WHERE expires_s < ?1", [now_us / 1_000_000])?;
        let sql = "INSERT OR IGNORE INTO used_links(mac, expires_s) VALUES (?1, ?2)";
        tx.execute(sql, params![wanted.mark(&asked), asked.expires_s])?;
        // A closed or merged one has nothing left.
        let left = opened(tx, id, &asked)?.map_or_else(|_| Vec::new(), |opened| opened.left);
        Ok(Ok(Opened { detail, left }))
    })?)
}

/// Whether we made it, and it has not expired.
fn genuine(store: &Store, id: &IncidentId, query: &str, now_us: Micros) -> Judged<Asked> {
    let Some(asked) = Asked::parse(query) else { return Ok(Err(Refused::Invalid)) };
    let key = store.read_now(|db| Ok(key(db)))??;
    if hmac::verify(&key, &message(id, asked.expires_s, asked.reopenings), &asked.mac).is_err() {
        return Ok(Err(Refused::Invalid));
    }
    Ok(if asked.expires_s <= now_us / 1_000_000 { Err(Refused::Expired) } else { Ok(asked) })
}

fn opened(db: &Connection, id: &IncidentId, asked: &Asked) -> Result<Result<Opened, Refused>, StoreError> {
    let Some(detail) = incident::detail(db, id)? else { return Ok(Err(Refused::Invalid)) };
    let summary = &detail.summary;
    if summary.resolved_us.is_some() || summary.merged_into.is_some() || summary.reopenings != asked.reopenings {
        return Ok(Err(Refused::Over));
    }
    let mut used = db.prepare_cached("SELECT 1 FROM used_links WHERE mac = ?1")?;
    let mut left = Vec::new();
    for one in Use::ALL {
        if !used.exists([one.mark(asked)])? {
            left.push(one);
        }
    }
    Ok(Ok(Opened { detail: Box::new(detail), left }))
}

struct Asked {
    expires_s: i64,
    reopenings: u32,
    mac: Vec<u8>,
}

impl Asked {
    /// The three members once each, in order, and nothing else: one incident, one text.
    fn parse(query: &str) -> Option<Self> {
        let (expires_s, rest) = query.strip_prefix("e=")?.split_once("&n=")?;
        let (reopenings, mac) = rest.split_once("&m=")?;
        let asked = Self {
            expires_s: expires_s.parse().ok()?,
            reopenings: reopenings.parse().ok()?,
            mac: hex::decode(mac).ok()?,
        };
        let canonical = format!("e={}&n={}&m={}", asked.expires_s, asked.reopenings, hex::encode(&asked.mac));
        (canonical == query).then_some(asked)
    }
}

fn message(id: &IncidentId, expires_s: i64, reopenings: u32) -> Vec<u8> {
    let (expires, reopenings) = (expires_s.to_string(), reopenings.to_string());
    let mut message = CONTEXT.as_bytes().to_vec();
    for field in [id.as_str(), "ack", &expires, &reopenings] {
        message.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(field.as_bytes());
    }
    message
}

/// The key beside the store, made at first use.
fn key(db: &Connection) -> Result<hmac::Key, LinkError> {
    let dir = db.path().map(Path::new).and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let path = dir.join(KEY_FILE);
    let failed = |source| LinkError::Key { path: path.clone(), source };
    let secret = match read_key(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make_key(&path).map_err(failed)?;
            read_key(&path).map_err(failed)?
        }
        read => read.map_err(failed)?,
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()))
}

fn make_key(path: &Path) -> std::io::Result<()> {
    let mut secret = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| std::io::Error::other("no randomness"))?;
    let text = Zeroizing::new(hex::encode(secret.as_slice()));
    // Whole under another name first: who reads it must not meet half a key, and who makes it at the same time wins once.
    let half = path.with_extension(format!("key.{}", std::process::id()));
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&half)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let made = match std::fs::hard_link(&half, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    };
    std::fs::remove_file(&half)?;
    made
}

fn read_key(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let text = read_private(path, KEY_FILE_BYTES_MAX)?;
    let secret = hex::decode(text.trim_ascii()).ok().filter(|secret| secret.len() == 32);
    secret.map(Zeroizing::new).ok_or_else(|| std::io::Error::other("it does not hold 32 bytes in hex"))
}
