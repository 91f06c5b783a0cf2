//! A cluster's index: a signed list of its logs and of how far each was seen, so that a log that is withheld is missed.
//!
//! DESIGN has one log for each node, and a log proves itself but not that there is no other. Whoever keeps the index looks
//! at all folders of a cluster from time to time and signs the list anew; each edition names the one before. Whoever
//! checks wants each log that the index names, at least as long as it was, and none that it does not name. Format:
//! docs/chain.md.

use crate::chain::leaf::sha256;
use crate::chain::tree::RootHash;
use crate::chain::{Checkpoint, LogKeys, NoteError, SigningKey, VerifyKey};
use crate::signer::{LATEST_NAME, SignError, read_keys};
use crate::tiles::{FolderTiles, LogView, TilesError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest index read: a thousand logs.
pub const INDEX_BYTES_MAX: u64 = 64 * 1024;
/// First line of the text; no origin has a space in it.
const TITLE: &str = "keytrail cluster index v1";

/// What is known of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedLog {
    /// Its key when it was first seen; its own records lead to later ones.
    pub key: VerifyKey,
    /// Size and root when it was first seen.
    pub first: (u64, RootHash),
    /// Size and root when it was last seen.
    pub last: (u64, RootHash),
    /// Nothing more is expected of it.
    pub retired: bool,
}

/// One edition of a cluster's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIndex {
    /// The cluster, as its logs' origins name it.
    pub cluster: String,
    /// From 1, one more with each.
    pub edition: u64,
    /// SHA-256 of the edition before as a file, hex; `-` in the first.
    pub previous: String,
    /// When it was made, Unix seconds.
    pub made_s: u64,
    /// The logs, by origin.
    pub logs: Vec<IndexedLog>,
}

/// Why an index is not one, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Not the text of one.
    #[error("cluster index is malformed: {0}")]
    Malformed(&'static str),
    /// Not under the key.
    #[error("cluster index is not signed by the key")]
    Note(#[from] NoteError),
    /// A log's folder has no keys that can be read.
    #[error("keys of the log in {path} cannot be read")]
    Keys {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignError,
    },
    /// A log's folder has no checkpoint that holds.
    #[error("checkpoint of the log in {path} cannot be read")]
    Log {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: TilesError,
    },
    /// Two folders hold one log.
    #[error("{0} was given twice")]
    Twice(String),
    /// No folder, or one of another cluster.
    #[error("{0}")]
    Cluster(String),
}

/// What is wrong with a log that the index names, or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has shown it.
    Missing,
    /// It is shorter than it was.
    Shrunk {
        /// Records now.
        size: u64,
    },
    /// It does not begin as it did.
    Other,
    /// It is retired and has grown.
    Grown {
        /// Records now.
        size: u64,
    },
    /// The index does not name it.
    Unlisted,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Shrunk { size } => write!(f, "has shrunk to {size} records"),
            Self::Other => f.write_str("is another log than it was"),
            Self::Grown { size } => write!(f, "is retired and has {size} records"),
            Self::Unlisted => f.write_str("is not in the index"),
        }
    }
}

/// A log of the cluster as its folder shows it now.
pub struct SeenLog {
    keys: LogKeys,
    checkpoint: Checkpoint,
    view: LogView<FolderTiles>,
}

impl SeenLog {
    /// Reads a data folder, or one of `former/`: its newest checkpoint under its own keys.
    pub fn read(dir: &Path) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Log { path: dir.to_owned(), source };
        let checkpoints = dir.join("checkpoints");
        let keys = read_keys(&checkpoints, None).map_err(|source| IndexError::Keys { path: dir.to_owned(), source })?;
        let note =
            std::fs::read_to_string(checkpoints.join(LATEST_NAME)).map_err(|_| failed(TilesError::NoCheckpoint))?;
        let checkpoint = keys.verify(&note).map_err(|error| failed(error.into()))?;
        let key = keys.all().iter().find(|key| key.verify(&note).is_ok()).unwrap_or(keys.current());
        let tiles = FolderTiles::open(dir).map_err(failed)?;
        let view = LogView::new(tiles, note, key).map_err(failed)?;
        Ok(Self { keys, checkpoint, view })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.checkpoint.origin
    }

    fn head(&self) -> (u64, RootHash) {
        (self.checkpoint.size, self.checkpoint.root)
    }

    /// What is wrong with it, by what the index knows.
    fn fault(&mut self, known: &IndexedLog) -> Option<Fault> {
        let size = self.checkpoint.size;
        if !self.keys.all().contains(&known.key) {
            return Some(Fault::Other);
        }
        if size < known.last.0 {
            return Some(Fault::Shrunk { size });
        }
        for (old, root) in [known.first, known.last] {
            // A folder that cannot prove its beginning is not believed.
            if self.view.consistency_proof(old).map(|(found, _)| found).ok() != Some(root) {
                return Some(Fault::Other);
            }
        }
        (known.retired && size > known.last.0).then_some(Fault::Grown { size })
    }
}

impl ClusterIndex {
    /// Reads an edition under its key.
    pub fn parse(note: &str, key: &VerifyKey) -> Result<Self, IndexError> {
        let text = key.verify_text(note)?;
        let malformed = IndexError::Malformed;
        let mut lines = text.lines();
        let mut next = |what| lines.next().ok_or(malformed(what));
        if next("title is missing")? != TITLE {
            return Err(malformed("title is another"));
        }
        let cluster = next("cluster is missing")?.to_owned();
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed("number is none"));
        let edition = number(next("edition is missing")?)?;
        let previous = next("edition before is missing")?.to_owned();
        let made_s = number(next("time is missing")?)?;
        let logs = lines.map(IndexedLog::parse).collect::<Option<Vec<_>>>().ok_or(malformed("line of a log"))?;
        let index = Self { cluster, edition, previous, made_s, logs };
        let origins: BTreeSet<&str> = index.logs.iter().map(|log| log.key.name()).collect();
        if origins.len() != index.logs.len() || index.text() != text {
            return Err(malformed("logs are not in order, each once"));
        }
        Ok(index)
    }

    /// The next edition, from what is seen now; the first one without an edition before. Faults are carried by nobody: they
    /// keep the edition from being made, but for logs that `retire` names, of which nothing more is expected.
    pub fn next(
        before: Option<(&Self, &str)>,
        seen: Vec<SeenLog>,
        retire: &[String],
        made_s: u64,
    ) -> Result<Result<Self, Vec<(String, Fault)>>, IndexError> {
        let cluster = cluster(before.map(|(index, _)| index.cluster.as_str()), &seen)?;
        let (mut logs, edition, previous) = match before {
            Some((index, note)) => (index.logs.clone(), index.edition + 1, hex::encode(sha256(&[note.as_bytes()]))),
            None => (Vec::new(), 1, "-".to_owned()),
        };
        let mut faults = Vec::new();
        for mut log in seen {
            match logs.iter_mut().find(|known| known.key.name() == log.origin()) {
                Some(known) => match log.fault(known) {
                    Some(fault) => faults.push((log.origin().to_owned(), fault)),
                    None => known.last = log.head(),
                },
                None => {
                    let key = log.keys.all().first().unwrap_or(log.keys.current()).clone();
                    logs.push(IndexedLog { key, first: log.head(), last: log.head(), retired: false });
                }
            }
        }
        for origin in retire {
            match logs.iter_mut().find(|known| known.key.name() == origin) {
                Some(known) => known.retired = true,
                None => return Err(IndexError::Cluster(format!("{origin}, to be retired, is not in the index"))),
            }
        }
        if !faults.is_empty() {
            return Ok(Err(faults));
        }
        logs.sort_by(|a, b| a.key.name().cmp(b.key.name()));
        Ok(Ok(Self { cluster, edition, previous, made_s, logs }))
    }

    /// Compares with all logs that somebody shows: which are missing, shorter, others, or not listed.
    pub fn check(&self, seen: Vec<SeenLog>) -> Result<Vec<(String, Fault)>, IndexError> {
        cluster(Some(&self.cluster), &seen)?;
        let mut faults = Vec::new();
        let shown: BTreeSet<String> = seen.iter().map(|log| log.origin().to_owned()).collect();
        for known in self.logs.iter().filter(|known| !known.retired && !shown.contains(known.key.name())) {
            faults.push((known.key.name().to_owned(), Fault::Missing));
        }
        for mut log in seen {
            let fault = match self.logs.iter().find(|known| known.key.name() == log.origin()) {
                Some(known) => log.fault(known),
                None => Some(Fault::Unlisted),
            };
            faults.extend(fault.map(|fault| (log.origin().to_owned(), fault)));
        }
        Ok(faults)
    }

    /// The signed edition.
    pub fn sign(&self, key: &SigningKey) -> String {
        key.sign_text(&self.text())
    }

    fn text(&self) -> String {
        let Self { cluster, edition, previous, made_s, logs } = self;
        let logs: String = logs.iter().map(IndexedLog::line).collect();
        format!("{TITLE}\n{cluster}\n{edition}\n{previous}\n{made_s}\n{logs}")
    }
}

impl IndexedLog {
    fn line(&self) -> String {
        let Self { key, first, last, retired } = self;
        let state = if *retired { "retired" } else { "active" };
        let [first_root, last_root] = [first.1, last.1].map(|root| BASE64.encode(root.0));
        format!("log {key} {} {first_root} {} {last_root} {state}\n", first.0, last.0)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let ("log", key) = (next()?, next()?.parse().ok()?) else { return None };
        let root = |text: &str| Some(RootHash(BASE64.decode(text).ok()?.try_into().ok()?));
        let first = (next()?.parse().ok()?, root(next()?)?);
        let last = (next()?.parse().ok()?, root(next()?)?);
        let retired = match next()? {
            "active" => false,
            "retired" => true,
            _ => return None,
        };
        next().is_none().then_some(Self { key, first, last, retired })
    }
}

/// The one cluster that all of these are of, each log once.
fn cluster(expected: Option<&str>, seen: &[SeenLog]) -> Result<String, IndexError> {
    let of = |log: &SeenLog| log.origin().split('/').nth(1).unwrap_or_default().to_owned();
    let cluster = expected.map(str::to_owned).or(seen.first().map(of));
    let cluster = cluster.ok_or(IndexError::Cluster("no log was given".to_owned()))?;
    let mut origins = BTreeSet::new();
    for log in seen {
        if of(log) != cluster {
            return Err(IndexError::Cluster(format!("{} is not of the cluster {cluster}", log.origin())));
        }
        if !origins.insert(log.origin()) {
            return Err(IndexError::Twice(log.origin().to_owned()));
        }
    }
    Ok(cluster)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::{Kind, LogId};
    use crate::clock::FakeClock;
    use crate::journal::{Draft, Journal, JournalOptions};
    use crate::signer::{CheckpointSigner, LocalSigner};
    use std::sync::Arc;

    struct Node(tempfile::TempDir, String);

    impl Node {
        fn new(cluster: &str, node: &str) -> Self {
            let (dir, origin) = (tempfile::tempdir().unwrap(), format!("keytrail/{cluster}/{node}-0123456789abcdef"));
            LocalSigner::create(&dir.path().join("checkpoints"), &origin).unwrap();
            let node = Self(dir, origin);
            node.grow(300);
            node
        }

        fn grow(&self, count: u32) {
            let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::default() };
            let (dir, log) = (self.0.path().join("journal"), LogId::of_origin(&self.1));
            let (journal, _) = Journal::open(&dir, log, Arc::new(FakeClock::default()), options).unwrap();
            for _ in 0..count {
                journal.append(Draft::new(Kind::Event, "{}".into()).unwrap()).unwrap().wait().unwrap();
            }
            LocalSigner::open(&self.0.path().join("checkpoints")).unwrap().sign_newest(&journal).unwrap();
        }

        fn seen(&self) -> SeenLog {
            SeenLog::read(self.0.path()).unwrap()
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_seed("auditor", &[5; 32]).unwrap()
    }

    fn made(before: Option<(&ClusterIndex, &str)>, seen: Vec<SeenLog>, retire: &[String]) -> ClusterIndex {
        ClusterIndex::next(before, seen, retire, 7).unwrap().unwrap()
    }

    #[test]
    fn a_log_that_is_withheld_shortened_replaced_or_new_is_named() {
        let (a, b) = (Node::new("c", "a"), Node::new("c", "b"));
        let first = made(None, vec![a.seen(), b.seen()], &[]);
        let note = first.sign(&key());
        assert_eq!(ClusterIndex::parse(&note, key().verify_key()).unwrap(), first);
        assert_eq!(first.check(vec![b.seen(), a.seen()]).unwrap(), []);
        a.grow(20);
        assert_eq!(first.check(vec![a.seen(), b.seen()]).unwrap(), []);
        assert_eq!(first.check(vec![a.seen()]).unwrap(), [(b.1.clone(), Fault::Missing)]);
        let second = made(Some((&first, &note)), vec![a.seen(), b.seen()], &[]);
        assert_eq!((second.edition, second.logs[0].last.0, second.logs[0].first.0), (2, 320, 300));
        assert_eq!(second.previous, hex::encode(sha256(&[note.as_bytes()])));
        // A copy of before, another log under the same name, and a node that nobody told the index of.
        let short = Node(tempfile::tempdir().unwrap(), a.1.clone());
        std::fs::create_dir(short.0.path().join("checkpoints")).unwrap();
        for name in ["signer.key", "vkey"] {
            let name = Path::new("checkpoints").join(name);
            std::fs::copy(a.0.path().join(&name), short.0.path().join(&name)).unwrap();
        }
        short.grow(310);
        assert_eq!(second.check(vec![short.seen(), b.seen()]).unwrap(), [(a.1.clone(), Fault::Shrunk { size: 310 })]);
        let other = Node::new("c", "a");
        other.grow(50);
        assert_eq!(second.check(vec![other.seen(), b.seen()]).unwrap(), [(a.1.clone(), Fault::Other)]);
        let (third, stranger) = (Node::new("c", "z"), Node::new("d", "a"));
        let faults = second.check(vec![a.seen(), b.seen(), third.seen()]).unwrap();
        assert_eq!(faults, [(third.1, Fault::Unlisted)]);
        assert!(matches!(second.check(vec![stranger.seen()]), Err(IndexError::Cluster(_))));
        assert!(matches!(second.check(vec![a.seen(), a.seen()]), Err(IndexError::Twice(_))));
        // Nothing that has shrunk gets into a next edition.
        let refused = ClusterIndex::next(Some((&second, "x")), vec![short.seen()], &[], 8).unwrap();
        assert_eq!(refused.unwrap_err(), [(a.1.clone(), Fault::Shrunk { size: 310 })]);
        // A retired log need not be shown, and must not go on.
        let last = made(Some((&second, "x")), vec![a.seen()], std::slice::from_ref(&b.1));
        assert_eq!(last.check(vec![a.seen()]).unwrap(), []);
        b.grow(1);
        assert_eq!(last.check(vec![a.seen(), b.seen()]).unwrap(), [(b.1, Fault::Grown { size: 301 })]);
    }

    #[test]
    fn changed_and_strange_indexes_are_refused() {
        let node = Node::new("c", "a");
        let index = made(None, vec![node.seen()], &[]);
        let note = index.sign(&key());
        let stranger = SigningKey::from_seed("auditor", &[6; 32]).unwrap();
        assert!(matches!(ClusterIndex::parse(&note, stranger.verify_key()), Err(IndexError::Note(_))));
        let changed = note.replace(" active\n", " retired\n");
        assert!(matches!(ClusterIndex::parse(&changed, key().verify_key()), Err(IndexError::Note(_))));
        for (from, to) in [(TITLE, "title"), ("\n1\n", "\n01\n"), ("log ", "log  "), (" active\n", " asleep\n")] {
            let text = key().sign_text(&index.text().replacen(from, to, 1));
            assert!(matches!(ClusterIndex::parse(&text, key().verify_key()), Err(IndexError::Malformed(_))), "{to}");
        }
    }
}
