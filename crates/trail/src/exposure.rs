//! Blast radius: what a key, a principal or a credential has exposed since some moment, from the log.
//!
//! Disabling a key or a credential does not recall the data keys that were handed out before. So after an incident the
//! question is which data was within reach: each encryption context under each key that was opened, or for which a data
//! key was given out in the clear. That is the list of what to encrypt anew. A principal's or credential's sessions and
//! access keys count as its own, as do those that were opened or made with them in turn.

use crate::lake::snapshot::Snapshot;
use crate::query::{self, Cancel, Limits, RunError, gate, quoted};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Calls that give the caller a plaintext, a data key in the clear or a shared secret.
const OPENING: [&str; 4] = ["Decrypt", "GenerateDataKey", "GenerateDataKeyPair", "DeriveSharedSecret"];
/// Calls whose results bear the key's authority without opening anything: whoever made them could have made them up.
const MAKING: [&str; 6] = [
    "Encrypt",
    "Sign",
    "GenerateMac",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPairWithoutPlaintext",
    "ReEncrypt",
];
/// Calls that answer with an access key id of its own.
const BEGETTING: [&str; 4] = ["AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken", "CreateAccessKey"];
/// Steps from a credential to those made with it, and how many are followed in all.
const STEPS_MAX: usize = 8;
const CREDENTIALS_MAX: usize = 10_000;
/// Different (key, context) pairs that are counted; more are an error, never a silent cut.
const CONTEXTS_MAX: usize = 1_000_000;
/// Other kinds of calls, by key and caller.
const DEEDS_MAX: usize = 100_000;

/// Whose blast radius is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A key, by its ARN: whoever used it.
    Key(String),
    /// A user, role (with its sessions), session or account root, by its ARN: whatever it used.
    Principal(String),
    /// An access key id, of a user or a session.
    Credential(String),
}

/// Event times, Unix microseconds, the end exclusive.
pub type Range = std::ops::Range<i64>;

/// One encryption context under one key that was within reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// The key.
    pub key_arn: Option<String>,
    /// As JSON text, names in order; absent for calls without one.
    pub encryption_context: Option<String>,
    /// Ciphertexts opened: data keys mostly, or data itself.
    pub decrypts: i64,
    /// Data keys, key pairs and shared secrets that were made and given out in the clear.
    pub data_keys: i64,
    /// First and last such call, Unix microseconds.
    pub first_micros: i64,
    /// See `first_micros`.
    pub last_micros: i64,
    /// Who made the calls.
    pub principals: BTreeSet<String>,
}

/// A kind of call that opened nothing, but whose effect or product is out in the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    /// The operation.
    pub event_name: String,
    /// On which key, if on one.
    pub key_arn: Option<String>,
    /// Who.
    pub principal_arn: Option<String>,
    /// How often it succeeded.
    pub calls: i64,
    /// First and last, Unix microseconds.
    pub first_micros: i64,
    /// See `first_micros`.
    pub last_micros: i64,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// What to encrypt anew, the most used first.
    pub opened: Vec<Opened>,
    /// Products that may be forged: ciphertexts, signatures, MACs, and what was moved under another key.
    pub made: Vec<Deed>,
    /// Changes that last: policies, grants, credentials, states.
    pub changed: Vec<Deed>,
    /// Access keys that count as the subject's, besides a credential that was asked for.
    pub followed: Vec<String>,
    /// Successful calls that were counted, those on imported records included.
    pub calls: i64,
    /// How many of them are records of imported logs, which are as good as the files they came from.
    pub imported_calls: i64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExposureError {
    /// Planning failed.
    #[error("the log cannot be queried")]
    Query(#[source] Box<DataFusionError>),
    /// Running failed, or took too long.
    #[error("the log cannot be read")]
    Run(#[from] RunError),
    /// The gate refused our own statement.
    #[error("the log cannot be asked")]
    Gate(#[from] gate::GateError),
    /// A column is not what it should be.
    #[error("the log's rows cannot be read")]
    Arrow(#[from] ArrowError),
    /// More than is kept in memory.
    #[error("more than {0} {1}: ask for a shorter time")]
    TooMany(usize, &'static str),
}

impl From<DataFusionError> for ExposureError {
    fn from(error: DataFusionError) -> Self {
        Self::Query(Box::new(error))
    }
}

/// Counts what `subject` exposed in `range`. Denied and failed calls expose nothing and are left out.
pub async fn measure(
    snapshot: &Arc<Snapshot>,
    subject: &Subject,
    range: &Range,
    limits: &Limits,
) -> Result<Exposure, ExposureError> {
    let log = Log { snapshot, limits };
    let mut exposure = Exposure::default();
    let condition = match subject {
        Subject::Key(arn) => format!("key_arn = {}", quoted(arn)),
        Subject::Principal(_) | Subject::Credential(_) => {
            exposure.followed = log.follow(subject, range).await?;
            whose(subject, &exposure.followed)
        }
    };
    log.count(&mut exposure, &format!("{condition} AND {}", within(range))).await?;
    Ok(exposure)
}

struct Log<'a> {
    snapshot: &'a Arc<Snapshot>,
    limits: &'a Limits,
}

impl Log<'_> {
    /// The access keys that the subject opened or made, and those that were opened or made with them.
    async fn follow(&self, subject: &Subject, range: &Range) -> Result<Vec<String>, ExposureError> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        for _ in 0..STEPS_MAX {
            let known: Vec<String> = found.iter().cloned().collect();
            // Such calls are on no key, which spares the pages of all that are: the lake is sorted by key.
            let sql = format!(
                "SELECT DISTINCT coalesce(json_get_str(response_elements, 'credentials', 'accessKeyId'),
                   json_get_str(response_elements, 'accessKey', 'accessKeyId')) AS id
                 FROM events WHERE key_arn IS NULL AND event_name IN ({}) AND error_code IS NULL AND {} AND {}",
                list(&BEGETTING),
                within(range),
                whose(subject, &known)
            );
            let before = found.len();
            self.each(&sql, |batch| {
                let ids = texts(batch, "id")?;
                found.extend(ids.iter().flatten().map(str::to_owned));
                if found.len() > CREDENTIALS_MAX {
                    return Err(ExposureError::TooMany(CREDENTIALS_MAX, "credentials that lead on"));
                }
                Ok(())
            })
            .await?;
            if found.len() == before {
                break;
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn count(&self, exposure: &mut Exposure, condition: &str) -> Result<(), ExposureError> {
        let own: Vec<String> = self.snapshot.own_logs().map(|(log, _)| quoted(&log.to_string())).collect();
        let imported = if own.is_empty() { "true".to_owned() } else { format!("log NOT IN ({})", own.join(", ")) };
        // Reads and refusals leave nothing behind; what decides is `read_only` and the list above, never the spelling of a name.
        let sql = format!(
            "SELECT event_name, key_arn, enc_context, principal_arn, {imported} AS imported, count(*) AS calls,
               CAST(min(event_time) AS BIGINT) AS first, CAST(max(event_time) AS BIGINT) AS last
             FROM events
             WHERE {condition} AND error_code IS NULL
               AND (event_name IN ({}, {}) OR read_only = false OR read_only IS NULL)
             GROUP BY event_name, key_arn, enc_context, principal_arn, {imported}",
            list(&OPENING),
            list(&MAKING)
        );
        let mut opened: BTreeMap<(Option<String>, Option<String>), Opened> = BTreeMap::new();
        let mut deeds: BTreeMap<(String, Option<String>, Option<String>), Deed> = BTreeMap::new();
        self.each(&sql, |batch| {
            let rows = Columns::of(batch)?;
            for row in 0..batch.num_rows() {
                let row = rows.at(row);
                exposure.calls += row.calls;
                exposure.imported_calls += if row.imported { row.calls } else { 0 };
                if OPENING.contains(&row.event_name) { row.open(&mut opened) } else { row.deed(&mut deeds) }
            }
            match (opened.len() > CONTEXTS_MAX, deeds.len() > DEEDS_MAX) {
                (true, _) => Err(ExposureError::TooMany(CONTEXTS_MAX, "pairs of a key and an encryption context")),
                (_, true) => Err(ExposureError::TooMany(DEEDS_MAX, "kinds of calls")),
                _ => Ok(()),
            }
        })
        .await?;
        exposure.opened = opened.into_values().collect();
        exposure.opened.sort_by_key(|one| std::cmp::Reverse(one.decrypts + one.data_keys));
        let mut deeds: Vec<Deed> = deeds.into_values().collect();
        deeds.sort_by_key(|deed| deed.first_micros);
        (exposure.made, exposure.changed) =
            deeds.into_iter().partition(|deed| MAKING.contains(&deed.event_name.as_str()));
        Ok(())
    }

    /// Runs our own SELECT and shows each batch.
    async fn each(
        &self,
        sql: &str,
        mut see: impl FnMut(&RecordBatch) -> Result<(), ExposureError>,
    ) -> Result<(), ExposureError> {
        let session = query::session(self.snapshot, self.limits, None)?;
        let plan = gate::plan(&session, sql).await?;
        let mut rows = query::run(&session, plan, self.limits, Cancel::new())?;
        while let Some(batch) = rows.next().await {
            see(&batch?)?;
        }
        Ok(())
    }
}

/// The columns of one batch of counts.
struct Columns {
    event_name: StringArray,
    key_arn: StringArray,
    enc_context: StringArray,
    principal_arn: StringArray,
    imported: ArrayRef,
    calls: Int64Array,
    first: Int64Array,
    last: Int64Array,
}

struct Row<'a> {
    event_name: &'a str,
    key_arn: Option<&'a str>,
    enc_context: Option<&'a str>,
    principal_arn: Option<&'a str>,
    imported: bool,
    calls: i64,
    first: i64,
    last: i64,
}

impl Columns {
    fn of(batch: &RecordBatch) -> Result<Self, ExposureError> {
        let imported = column(batch, "imported")?;
        Ok(Self {
            event_name: texts(batch, "event_name")?,
            key_arn: texts(batch, "key_arn")?,
            enc_context: texts(batch, "enc_context")?,
            principal_arn: texts(batch, "principal_arn")?,
            imported: cast(imported, &DataType::Boolean)?,
            calls: numbers(batch, "calls")?,
            first: numbers(batch, "first")?,
            last: numbers(batch, "last")?,
        })
    }

    fn at(&self, row: usize) -> Row<'_> {
        let text = |column: &'_ StringArray| column.is_valid(row).then_some(row);
        Row {
            event_name: text(&self.event_name).map_or("", |row| self.event_name.value(row)),
            key_arn: text(&self.key_arn).map(|row| self.key_arn.value(row)),
            enc_context: text(&self.enc_context).map(|row| self.enc_context.value(row)),
            principal_arn: text(&self.principal_arn).map(|row| self.principal_arn.value(row)),
            imported: self.imported.as_boolean().value(row),
            calls: self.calls.value(row),
            first: self.first.value(row),
            last: self.last.value(row),
        }
    }
}

impl Row<'_> {
    fn open(&self, opened: &mut BTreeMap<(Option<String>, Option<String>), Opened>) {
        let (key_arn, context) = (self.key_arn.map(str::to_owned), self.enc_context.map(str::to_owned));
        let one = opened.entry((key_arn.clone(), context.clone())).or_insert_with(|| Opened {
            key_arn,
            encryption_context: context,
            first_micros: self.first,
            last_micros: self.last,
            ..Opened::default()
        });
        *if self.event_name == "Decrypt" { &mut one.decrypts } else { &mut one.data_keys } += self.calls;
        one.first_micros = one.first_micros.min(self.first);
        one.last_micros = one.last_micros.max(self.last);
        one.principals.extend(self.principal_arn.map(str::to_owned));
    }

    fn deed(&self, deeds: &mut BTreeMap<(String, Option<String>, Option<String>), Deed>) {
        let (key_arn, principal_arn) = (self.key_arn.map(str::to_owned), self.principal_arn.map(str::to_owned));
        let name = self.event_name.to_owned();
        let deed = deeds.entry((name.clone(), key_arn.clone(), principal_arn.clone())).or_insert_with(|| Deed {
            event_name: name,
            key_arn,
            principal_arn,
            calls: 0,
            first_micros: self.first,
            last_micros: self.last,
        });
        deed.calls += self.calls;
        deed.first_micros = deed.first_micros.min(self.first);
        deed.last_micros = deed.last_micros.max(self.last);
    }
}

/// Rows of the subject or of the access keys that count as its own.
fn whose(subject: &Subject, followed: &[String]) -> String {
    let itself = match subject {
        Subject::Key(arn) => format!("key_arn = {}", quoted(arn)),
        Subject::Credential(id) => format!("access_key_id = {}", quoted(id)),
        Subject::Principal(arn) => match sessions_of(arn) {
            Some(sessions) => {
                format!("principal_arn = {} OR starts_with(principal_arn, {})", quoted(arn), quoted(&sessions))
            }
            None => format!("principal_arn = {}", quoted(arn)),
        },
    };
    if followed.is_empty() {
        return format!("({itself})");
    }
    let ids: Vec<&str> = followed.iter().map(String::as_str).collect();
    format!("({itself} OR access_key_id IN ({}))", list(&ids))
}

/// How the ARNs of a role's sessions begin. A role's path is not part of them.
fn sessions_of(arn: &str) -> Option<String> {
    let (head, role) = arn.split_once(":role/")?;
    let (partition, account) = head.strip_prefix("arn:")?.split_once(":iam::")?;
    let name = role.rsplit('/').next()?;
    Some(format!("arn:{partition}:sts::{account}:assumed-role/{name}/"))
}

fn within(range: &Range) -> String {
    let mut parts = vec!["true".to_owned()];
    if range.start > 0 {
        parts.push(format!("event_time >= to_timestamp_micros({})", range.start));
    }
    if range.end < i64::MAX {
        parts.push(format!("event_time < to_timestamp_micros({})", range.end));
    }
    parts.join(" AND ")
}

fn list(texts: &[&str]) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ExposureError> {
    Ok(batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))?)
}

fn texts(batch: &RecordBatch, name: &str) -> Result<StringArray, ExposureError> {
    Ok(cast(column(batch, name)?, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<Int64Array, ExposureError> {
    Ok(cast(column(batch, name)?, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_owns_its_sessions_and_text_stays_text() {
        let role = Subject::Principal("arn:aws:iam::111122223333:role/team/reader".into());
        assert_eq!(
            whose(&role, &[]),
            "(principal_arn = 'arn:aws:iam::111122223333:role/team/reader' OR starts_with(principal_arn, \
             'arn:aws:sts::111122223333:assumed-role/reader/'))"
        );
        let user = Subject::Principal("arn:aws:iam::111122223333:user/o'brien".into());
        assert_eq!(
            whose(&user, &["ASIA1".into()]),
            "(principal_arn = 'arn:aws:iam::111122223333:user/o''brien' OR access_key_id IN ('ASIA1'))"
        );
    }
}
