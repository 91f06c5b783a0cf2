//! Incidents over HTTP, without the transport: what is answered to whom. The command's listener brings the bytes.
//!
//! `/v1/incidents` is JSON for people with a token (`users`), `/i/<id>/ack` a page behind the signed link of a mail
//! (`link`), and its forms post to `/i/<id>/<deed>`. Looking never changes anything: scanners follow every link of a mail,
//! and only POST acts. A stranger learns nothing but that somebody answers; whoever has a link can acknowledge, assign,
//! note, close and merge that one incident, each once, until it expires. Whoever has a token can do what `keytrail incident`
//! does. Neither acts on the key service.

mod form;
pub mod link;
mod page;
pub mod settings;
pub mod users;

use crate::incident::{self, Deed, DeedError, IncidentDetail, IncidentState, Resolution};
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::clock::Clock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest body of a request.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest path and query.
pub const TARGET_BYTES_MAX: usize = 1_024;
/// Incidents in one answer.
const INCIDENTS_MAX: u32 = 500;

/// A request, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST`...
    pub method: &'a str,
    /// As sent, without the query.
    pub path: &'a str,
    /// As sent, without the question mark.
    pub query: &'a str,
    /// The header of that name.
    pub authorization: Option<&'a str>,
    /// All of it, at most [`BODY_BYTES_MAX`].
    pub body: &'a [u8],
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON or HTML.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// What goes with each reply: nothing runs, nothing is framed, kept or told to others.
pub const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("vary", "authorization"),
];

/// Answers requests about the incidents of one data folder.
pub struct Door {
    data_dir: PathBuf,
    store: Store,
    clock: Arc<dyn Clock>,
}

/// Why there is no answer.
enum Refusal {
    Status(u16, &'static str, String),
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::Status(status, code, message.into())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<DeedError> for Refusal {
    fn from(error: DeedError) -> Self {
        match error {
            DeedError::NoIncident(_) => not_found(),
            DeedError::State { .. } => Self::new(409, "Conflict", error.to_string()),
            DeedError::Empty(_) => Self::new(400, "Invalid", error.to_string()),
            DeedError::Store(error) => error.into(),
        }
    }
}

impl Door {
    /// Over an open store.
    pub fn new(data_dir: PathBuf, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { data_dir, store, clock }
    }

    /// Answers one request; blocks on the store.
    pub fn answer(&self, request: &Request<'_>) -> Reply {
        if request.path.starts_with("/i/") {
            return self.page(request);
        }
        let answered = match self.json(request) {
            Ok(body) => (200, body),
            Err(Refusal::Status(status, code, message)) => {
                (status, json!({ "error": { "code": code, "message": message } }))
            }
            Err(Refusal::Broken(error)) => {
                tracing::error!(error = error.as_ref() as &dyn std::error::Error, "incident request failed");
                (500, json!({ "error": { "code": "Internal", "message": "it could not be done" } }))
            }
        };
        Reply { status: answered.0, content_type: "application/json", body: format!("{}\n", answered.1) }
    }

    fn json(&self, request: &Request<'_>) -> Result<Value, Refusal> {
        let by = self.caller(request)?;
        if request.body.len() > BODY_BYTES_MAX || request.path.len() + request.query.len() > TARGET_BYTES_MAX {
            return Err(Refusal::new(413, "TooLarge", "the request is too long"));
        }
        let rest = request.path.strip_prefix("/v1/incidents").ok_or_else(not_found)?;
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        match (request.method, parts.as_slice()) {
            ("GET", []) if rest.is_empty() => self.list(request.query),
            ("GET", [id]) => {
                let detail = self.store.read_now(|db| incident::detail(db, &id_of(id)))?.ok_or_else(not_found)?;
                Ok(whole(&detail))
            }
            ("POST", [id, deed]) => {
                let deed = read_deed(deed, request.body)?;
                Ok(whole(&incident::person::act(&self.store, id_of(id).as_str(), &by, &deed, self.now_us())?))
            }
            ("GET" | "POST", _) => Err(not_found()),
            _ => Err(Refusal::new(405, "MethodNotAllowed", "GET and POST only")),
        }
    }

    fn list(&self, query: &str) -> Result<Value, Refusal> {
        let state = match query.split_once('=') {
            None if query.is_empty() => None,
            Some(("state", word)) => Some(IncidentState::parse(word).ok_or_else(|| invalid("there is no such state"))?),
            _ => return Err(invalid("only state=... may be asked for")),
        };
        let found = self.store.read_now(|db| incident::listed(db, state, INCIDENTS_MAX))?;
        Ok(json!({ "incidents": found }))
    }

    /// The person whose token it is.
    fn caller(&self, request: &Request<'_>) -> Result<String, Refusal> {
        let refused =
            || Refusal::new(401, "Unauthenticated", "a bearer token of `keytrail incident user add` is needed");
        let token = request.authorization.and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(refused)?;
        let found = users::authenticate(&self.data_dir, token).map_err(|error| Refusal::Broken(error.into()))?;
        found.ok_or_else(refused)
    }

    fn page(&self, request: &Request<'_>) -> Reply {
        let parts = request.path.strip_prefix("/i/").and_then(|rest| rest.split_once('/'));
        let asked = parts.and_then(|(id, deed)| Some((id_of(id), link::Use::parse(deed)?)));
        let Some((id, wanted)) = asked.filter(|_| request.query.len() <= TARGET_BYTES_MAX) else {
            return page::of(404, "Not found", "There is nothing here.");
        };
        if request.body.len() > BODY_BYTES_MAX {
            return page::of(413, "Too long", "That is too long.");
        }
        let (now_us, query) = (self.now_us(), request.query);
        let answered = match (request.method, wanted) {
            ("GET", link::Use::Acknowledge) => {
                link::look(&self.store, &id, query, now_us).map(|found| found.map(|opened| page::ask(&opened, query)))
            }
            ("POST", _) => {
                let Some(deed) = read_form(wanted, request.body) else {
                    return page::of(400, "Not understood", "This is not what the page's form sends.");
                };
                link::act(&self.store, &id, query, (wanted, &deed), now_us)
                    .map(|done| done.map(|opened| page::done(wanted, &opened, query)))
            }
            _ => return page::of(405, "Not allowed", "GET and POST only."),
        };
        answered.map_or_else(
            |error| {
                tracing::error!(error = &error as &dyn std::error::Error, "incident link failed");
                page::of(500, "Failed", "It could not be done.")
            },
            |answered| answered.unwrap_or_else(|refused| refused_page(&refused)),
        )
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}

fn refused_page(refused: &link::Refused) -> Reply {
    match refused {
        link::Refused::Invalid => page::of(403, "Not valid", "This link is not valid."),
        link::Refused::Expired => {
            page::of(410, "Expired", "This link is too old: look at the incident with keytrail incident show.")
        }
        link::Refused::Used => page::of(410, "Used", "This link was used for that already, and each works once."),
        link::Refused::Over => {
            page::of(409, "Not open", "The incident was closed, merged or reopened since this mail was sent.")
        }
        link::Refused::Deed(error) => {
            let status = match error {
                DeedError::NoIncident(_) => 404,
                DeedError::State { .. } => 409,
                _ => 400,
            };
            page::of(status, "Not done", &format!("It was not done: {error}."))
        }
    }
}

/// The fields of that form, each once and in order, and no others.
fn read_form(wanted: link::Use, body: &[u8]) -> Option<Deed> {
    let names: &[&str] = match wanted {
        link::Use::Acknowledge => &[],
        link::Use::Assign => &["assignee"],
        link::Use::Note => &["text"],
        link::Use::Close => &["reason", "text"],
        link::Use::Merge => &["into"],
    };
    let fields = form::read(body)?;
    if !fields.iter().map(|(name, _)| name.as_str()).eq(names.iter().copied()) {
        return None;
    }
    let mut values = fields.into_iter().map(|(_, value)| value);
    Some(match wanted {
        link::Use::Acknowledge => Deed::Acknowledge,
        link::Use::Assign => Deed::Assign(values.next()?),
        link::Use::Note => Deed::Note(values.next()?),
        link::Use::Close => Deed::Close(Resolution::given(&values.next()?)?, values.next()),
        link::Use::Merge => Deed::Merge(values.next()?),
    })
}

fn id_of(text: &str) -> incident::IncidentId {
    incident::IncidentId::new(text)
}

fn not_found() -> Refusal {
    Refusal::new(404, "NotFound", "there is no such incident")
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(400, "Invalid", message)
}

/// The incident as JSON; the same as `keytrail incident show --json`.
pub fn whole(detail: &IncidentDetail) -> Value {
    serde_json::to_value(detail).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assign {
    assignee: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    reason: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reopen {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Merge {
    into: String,
}

fn read_deed(name: &str, body: &[u8]) -> Result<Deed, Refusal> {
    Ok(match name {
        "ack" => {
            let Nothing {} = read(body)?;
            Deed::Acknowledge
        }
        "assign" => Deed::Assign(read::<Assign>(body)?.assignee),
        "note" => Deed::Note(read::<Note>(body)?.text),
        "close" => {
            let Close { reason, text } = read(body)?;
            let reason = Resolution::given(&reason).ok_or_else(|| invalid("there is no such reason"))?;
            Deed::Close(reason, text)
        }
        "reopen" => Deed::Reopen(read::<Reopen>(body)?.text),
        "merge" => Deed::Merge(read::<Merge>(body)?.into),
        _ => return Err(not_found()),
    })
}

/// An empty body is an empty object.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    // What serde says quotes the body: the field it names is ours, its values are not told again.
    serde_json::from_slice(body).map_err(|_| invalid("the body is not the JSON that this needs: see docs/responder.md"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
