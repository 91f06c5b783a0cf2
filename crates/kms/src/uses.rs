//! What was allowed between two places of the log, of some principals and on some keys: the node's own journal, counted.
//!
//! Each call does a bounded piece of work and says where the next one goes on. Nothing at or above `journal/head` is
//! looked at, so what is not found below `end_seq` did not happen; a payload that cannot be read is counted, for then
//! nobody can tell. Never judges; the caller has been judged before.

use crate::chain::{Kind, Leaf};
use crate::journal::{Frame, JournalError, Reader};
use crate::people::role_of_session;
use crate::usage::operation;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Records looked at in one call: a fraction of a second's work.
const RECORDS_MAX: u64 = 20_000;
/// Records read at once.
const CHUNK_RECORDS: usize = 256;
/// Different uses in one answer.
const USES_MAX: usize = 200;
/// Bytes of names and contexts in one answer, so that it stays below what the responder reads.
const USES_BYTES_MAX: usize = 96 * 1024;
/// Operations that open sessions: a quarantine stops them, too.
const SESSIONS: [&str; 3] = ["AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken"];

/// What is asked.
pub(crate) struct Question {
    principals: BTreeSet<String>,
    keys: BTreeSet<String>,
    first_seq: u64,
    end_seq: Option<u64>,
}

impl Question {
    /// A session stands for its role, as in a quarantine. Without `end_seq` up to what is durable.
    pub(crate) fn new(principals: &[String], keys: &[String], first_seq: u64, end_seq: Option<u64>) -> Self {
        let principals = principals.iter().map(|arn| role_of_session(arn).unwrap_or_else(|| arn.clone())).collect();
        Self { principals, keys: keys.iter().cloned().collect(), first_seq, end_seq }
    }

    /// Of a principal asked for every use, change and session counts, of a key its use and its grants.
    fn counts(&self, event: &Scanned, key: Option<&str>) -> bool {
        if event.error_code.is_some() {
            return false;
        }
        let name = event.event_name.as_str();
        let used = operation(name).is_some() || name == "CreateGrant";
        let who = event.user_identity.arn.as_deref();
        let theirs = who.is_some_and(|arn| {
            self.principals.contains(arn) || role_of_session(arn).is_some_and(|role| self.principals.contains(&role))
        });
        (theirs && (used || !event.read_only || SESSIONS.contains(&name)))
            || (used && key.is_some_and(|key| self.keys.contains(key)))
    }
}

/// Uses of one kind.
#[derive(Debug, PartialEq)]
pub(crate) struct Use {
    pub(crate) principal: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) operation: String,
    /// As recorded; of ReEncrypt the source's.
    pub(crate) context: Option<Value>,
    pub(crate) count: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
}

/// All up to `next_seq`; the question is answered when that is `end_seq`.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    pub(crate) uses: Vec<Use>,
    pub(crate) next_seq: u64,
    pub(crate) end_seq: u64,
    /// Events that could not be read.
    pub(crate) unreadable: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scanned {
    event_name: String,
    error_code: Option<String>,
    read_only: bool,
    user_identity: Who,
    #[serde(default)]
    resources: Vec<Resource>,
    #[serde(default)]
    request_parameters: Option<Value>,
}

#[derive(Deserialize)]
struct Who {
    arn: Option<String>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "ARN")]
    arn: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Scanned {
    /// The key asked for among those touched, else the first.
    fn key(&self, asked: &BTreeSet<String>) -> Option<&str> {
        let keys = || self.resources.iter().filter(|one| one.kind == "AWS::KMS::Key").map(|one| one.arn.as_str());
        keys().find(|key| asked.contains(*key)).or_else(|| keys().next())
    }

    fn context(&self) -> Option<Value> {
        let parameters = self.request_parameters.as_ref()?;
        let context = parameters.get("encryptionContext").or_else(|| parameters.get("sourceEncryptionContext"))?;
        (!context.is_null()).then(|| context.clone())
    }
}

/// Reads and counts.
pub(crate) fn look(journal: &Path, question: &Question) -> Result<Uses, JournalError> {
    let mut reader = Reader::open(journal, question.first_seq)?;
    let durable = reader.durable()?;
    let end_seq = question.end_seq.unwrap_or(durable).min(durable);
    let mut found = Counting { places: HashMap::new(), bytes: 0, uses: Uses { end_seq, ..Uses::default() } };
    let stop = end_seq.min(question.first_seq.saturating_add(RECORDS_MAX));
    let mut seq = question.first_seq;
    while seq < stop {
        let left = usize::try_from(stop - seq).unwrap_or(CHUNK_RECORDS).min(CHUNK_RECORDS);
        let frames = reader.next(left)?;
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            if !found.take(question, &frame, seq) {
                found.uses.next_seq = seq;
                return Ok(found.uses);
            }
            seq += 1;
        }
    }
    found.uses.next_seq = seq.min(end_seq);
    Ok(found.uses)
}

struct Counting {
    places: HashMap<(String, String, String, String), usize>,
    bytes: usize,
    uses: Uses,
}

impl Counting {
    /// False when the answer has no room for it.
    fn take(&mut self, question: &Question, frame: &Frame, seq: u64) -> bool {
        let Ok(leaf) = Leaf::decode(&frame.leaf) else {
            self.uses.unreadable += 1;
            return true;
        };
        if leaf.kind != Kind::Event {
            return true;
        }
        let Ok(event) = serde_json::from_slice::<Scanned>(&frame.payload) else {
            self.uses.unreadable += 1;
            return true;
        };
        let key = event.key(&question.keys).map(str::to_owned);
        if !question.counts(&event, key.as_deref()) {
            return true;
        }
        let (principal, context) = (event.user_identity.arn.clone(), event.context());
        let text = context.as_ref().map(Value::to_string).unwrap_or_default();
        let same =
            (principal.clone().unwrap_or_default(), key.clone().unwrap_or_default(), event.event_name.clone(), text);
        if let Some(one) = self.places.get(&same).and_then(|at| self.uses.uses.get_mut(*at)) {
            one.count += 1;
            one.last_seq = seq;
            return true;
        }
        let bytes = same.0.len() + same.1.len() + same.2.len() + same.3.len();
        // The first always has room, or nothing would ever go on.
        let full = self.uses.uses.len() >= USES_MAX || self.bytes + bytes > USES_BYTES_MAX;
        if full && !self.uses.uses.is_empty() {
            return false;
        }
        self.bytes += bytes;
        self.places.insert(same, self.uses.uses.len());
        let operation = event.event_name;
        self.uses.uses.push(Use { principal, key, operation, context, count: 1, first_seq: seq, last_seq: seq });
        true
    }
}
