//! StartQuery, DescribeQuery, GetQueryResults, CancelQuery and ListQueries, of a caller who may.

use super::super::Shared;
use super::queries::{Kept, Status};
use super::statement::with_view;
use super::{Caller, Exception, results};
use crate::query::Cancel;
use crate::serve::wire::error::WireError;
use crate::serve::{Door, EnterError, QueryError, Who};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What there is.
pub(super) const NAMES: [&str; 5] = ["StartQuery", "DescribeQuery", "GetQueryResults", "CancelQuery", "ListQueries"];
/// The model's limit on a statement.
const STATEMENT_CHARS_MAX: usize = 10_000;
/// The model's limit on a page.
const PAGE_MAX: i64 = 1_000;

/// Runs one operation.
pub(super) async fn run(shared: &Shared, caller: &Caller, operation: &str, body: &str) -> Result<Value, Exception> {
    match operation {
        "StartQuery" => start(shared, caller, input(body)?).await,
        "DescribeQuery" => describe(shared, caller, &input(body)?),
        "GetQueryResults" => page(shared, caller, &input(body)?),
        "CancelQuery" => cancel(shared, caller, &input(body)?),
        _ => list(shared, caller, &input(body)?),
    }
}

fn input<T: DeserializeOwned>(body: &str) -> Result<T, Exception> {
    serde_json::from_str(body).map_err(|error| Exception::new("SerializationException", error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StartQuery {
    query_statement: Option<String>,
    query_alias: Option<Value>,
    query_parameters: Option<Value>,
    #[serde(rename = "DeliveryS3Uri")]
    delivery_s3_uri: Option<Value>,
}

async fn start(shared: &Shared, caller: &Caller, input: StartQuery) -> Result<Value, Exception> {
    let unsupported = [
        (input.query_alias.is_some() || input.query_parameters.is_some(), "There are no dashboards' queries here."),
        (input.delivery_s3_uri.is_some(), "Results are not delivered to S3; read them with GetQueryResults."),
    ];
    if let Some((_, text)) = unsupported.iter().find(|(asked, _)| *asked) {
        return Err(Exception::new("UnsupportedOperationException", *text));
    }
    let statement = input.query_statement.unwrap_or_default();
    if statement.trim().is_empty() || statement.chars().count() > STATEMENT_CHARS_MAX {
        let text = format!("QueryStatement must have 1 to {STATEMENT_CHARS_MAX} characters.");
        return Err(Exception::new("InvalidQueryStatementException", text));
    }
    let who = Who {
        user: caller.user.name.clone(),
        door: Door::Api,
        client_address: caller.peer.to_string(),
        application: caller.agent.clone(),
    };
    let full = |text: &str| Exception::new("MaxConcurrentQueriesException", text);
    let session = shared.doors.enter(caller.user.clone(), who).map_err(|error| match error {
        EnterError::Full => full("Too many queries run at the trail; wait until some have ended."),
        EnterError::UserFull => full("Too many of your queries run; wait until some have ended."),
    })?;
    let (sql, cancel) = (with_view(&statement), Cancel::new());
    let answer = session.run(&sql, None, cancel.clone()).await.map_err(|error| refusal(&error, &sql))?;
    let id = answer.id();
    let kept = Kept::new(caller.account.clone(), statement, cancel);
    if !shared.queries.insert(id, kept) {
        return Err(full("Too many queries run at the trail; wait until some have ended."));
    }
    tokio::spawn(results::collect(shared.queries.clone(), id, session, answer, sql));
    Ok(json!({"QueryId": id.to_string(), "EventDataStoreOwnerAccountId": caller.account}))
}

/// Why a query did not start.
fn refusal(error: &QueryError, sql: &str) -> Exception {
    let wire = WireError::of_query(error, sql, 0);
    match error {
        QueryError::Gate(_) => Exception::new("InvalidQueryStatementException", wire.message),
        QueryError::Gone => Exception::new("AccessDeniedException", wire.message),
        _ => Exception::unavailable(&wire.message),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneQuery {
    query_id: Option<String>,
    event_data_store: Option<String>,
    next_token: Option<String>,
    max_query_results: Option<i64>,
}

impl OneQuery {
    fn id(&self) -> Result<Uuid, Exception> {
        check_store(self.event_data_store.as_deref())?;
        let text = self.query_id.as_deref().ok_or_else(|| {
            Exception::new("InvalidParameterException", "QueryId is needed; queries have no alias here.")
        })?;
        text.parse().map_err(|_| not_found(text))
    }
}

fn not_found(id: &str) -> Exception {
    let text = format!("Query {id} does not exist, or its results are not kept any more.");
    Exception::new("QueryIdNotFoundException", text)
}

/// Any name is that of the one store that there is.
fn check_store(name: Option<&str>) -> Result<(), Exception> {
    let sane = |name: &str| {
        (3..=256).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-:".contains(&b))
    };
    match name {
        Some(name) if !sane(name) => {
            Err(Exception::new("EventDataStoreARNInvalidException", "This is no ARN or id of an event data store."))
        }
        _ => Ok(()),
    }
}

fn describe(shared: &Shared, caller: &Caller, input: &OneQuery) -> Result<Value, Exception> {
    let id = input.id()?;
    let told = shared.queries.with(id, &caller.account, |query| {
        let mut told = json!({
            "QueryId": id.to_string(), "QueryString": query.statement, "QueryStatus": query.status.name(),
            "EventDataStoreOwnerAccountId": caller.account,
            "QueryStatistics": {
                "EventsMatched": query.rows(), "BytesScanned": 0, "CreationTime": secs(query.created),
                "ExecutionTimeInMillis": u64::try_from(query.took().as_millis()).unwrap_or(u64::MAX),
            },
        });
        put(&mut told, "ErrorMessage", query.error.as_deref());
        told
    });
    told.ok_or_else(|| not_found(&id.to_string()))
}

fn page(shared: &Shared, caller: &Caller, input: &OneQuery) -> Result<Value, Exception> {
    let (id, count) = (input.id()?, page_size(input.max_query_results)?);
    let invalid = || Exception::new("InvalidNextTokenException", "This is no token of this query.");
    let from = match input.next_token.as_deref() {
        None => 0,
        Some(token) => token.strip_prefix("row-").and_then(|row| row.parse::<usize>().ok()).ok_or_else(invalid)?,
    };
    let told = shared.queries.with(id, &caller.account, |query| {
        if from > query.rows() {
            return Err(invalid());
        }
        let (rows, more) = query.page(from, count);
        let mut told = json!({
            "QueryStatus": query.status.name(),
            "QueryStatistics": {"ResultsCount": rows.len(), "TotalResultsCount": query.rows(), "BytesScanned": 0},
            "QueryResultRows": rows,
        });
        put(&mut told, "NextToken", more.then(|| format!("row-{}", from + count)).as_deref());
        put(&mut told, "ErrorMessage", query.error.as_deref());
        Ok(told)
    });
    told.ok_or_else(|| not_found(&id.to_string()))?
}

fn cancel(shared: &Shared, caller: &Caller, input: &OneQuery) -> Result<Value, Exception> {
    let id = input.id()?;
    let ended = shared.queries.cancel(id, &caller.account).ok_or_else(|| not_found(&id.to_string()))?;
    if !ended {
        return Err(Exception::new("InactiveQueryException", format!("Query {id} has ended already.")));
    }
    let status = Status::Cancelled.name();
    Ok(json!({"QueryId": id.to_string(), "QueryStatus": status, "EventDataStoreOwnerAccountId": caller.account}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueries {
    event_data_store: Option<String>,
    query_status: Option<String>,
    start_time: Option<f64>,
    end_time: Option<f64>,
    next_token: Option<String>,
    max_results: Option<i64>,
}

/// The newest first.
fn list(shared: &Shared, caller: &Caller, input: &ListQueries) -> Result<Value, Exception> {
    check_store(input.event_data_store.as_deref())?;
    let page = page_size(input.max_results)?;
    let unknown = || Exception::new("InvalidQueryStatusException", "This is no status of a query.");
    let wanted = input.query_status.as_deref().map(|name| Status::of_name(name).ok_or_else(unknown)).transpose()?;
    if matches!((input.start_time, input.end_time), (Some(start), Some(end)) if start > end) {
        return Err(Exception::new("InvalidDateRangeException", "StartTime is after EndTime."));
    }
    let invalid = |_| Exception::new("InvalidNextTokenException", "This is no token of such a list.");
    let below: Option<Uuid> = input.next_token.as_deref().map(str::parse).transpose().map_err(invalid)?;
    let mut found = shared.queries.all(&caller.account, |id, query| {
        let at = secs(query.created);
        let named = wanted.is_none_or(|wanted| wanted == query.status) && below.is_none_or(|below| id < below);
        let timed = input.start_time.is_none_or(|start| at >= start) && input.end_time.is_none_or(|end| at <= end);
        (named && timed)
            .then(|| (id, json!({"QueryId": id.to_string(), "QueryStatus": query.status.name(), "CreationTime": at})))
    });
    found.reverse();
    let more = found.len() > page;
    found.truncate(page);
    let last = found.last().filter(|_| more).map(|(id, _)| id.to_string());
    let mut told = json!({"Queries": found.into_iter().map(|(_, query)| query).collect::<Vec<_>>()});
    put(&mut told, "NextToken", last.as_deref());
    Ok(told)
}

fn page_size(asked: Option<i64>) -> Result<usize, Exception> {
    let asked = asked.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&asked) {
        let text = format!("The maximum number of results must be between 1 and {PAGE_MAX}.");
        return Err(Exception::new("InvalidMaxResultsException", text));
    }
    Ok(usize::try_from(asked).unwrap_or(1))
}

fn put(told: &mut Value, name: &str, text: Option<&str>) {
    let members: Option<&mut Map<String, Value>> = told.as_object_mut();
    if let (Some(members), Some(text)) = (members, text) {
        members.insert(name.to_owned(), text.into());
    }
}

/// As AWS JSON has times.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of this millennium fit")]
fn secs(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1_000.0
}
