//! AuthorizeQuery: the trail asks who signed a call of CloudTrail's query operations that reached it, and whether that one may.
//!
//! The trail runs SQL and must never hold a secret; the secrets are here, where no SQL runs. So the trail hands over the call as
//! it came, signature and all, and is told the caller's ARN or the refusal. What is recorded is the caller's own call
//! (StartQuery and its kin, from `cloudtrail.amazonaws.com`), not the question. A trail that lies can name any client address,
//! but nobody as the caller whose signature it does not have (docs/decisions/0049-cloudtrail-queries.md).

use super::answer::{Answer, Call, CallerKey, json_body};
use super::drive::{Class, Query, answer_query, query, refuse, refuse_unknown};
use super::input::{self, recorded};
use super::judge::Judge;
use super::record::USER_AGENT_BYTES_MAX;
use super::refusal::{Refusal, RefusalKind};
use super::split_target;
use crate::access::Role;
use crate::auth::session::Sessions;
use crate::auth::sigv4::{RequestParts, Verifier, claimed_access_key_id};
use crate::client::ON_BEHALF_OF_HEADER;
use crate::event::SOURCE_CLOUDTRAIL;
use crate::key::Region;
use crate::node::Node;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// What the trail answers under CloudTrail's name.
const OPERATIONS: [&str; 5] = ["StartQuery", "DescribeQuery", "GetQueryResults", "CancelQuery", "ListQueries"];
/// Of a statement in its event; AWS's own limit is 10,000 characters.
const STATEMENT_BYTES_MAX: usize = 16 * 1024;
/// Of any other text.
const TEXT_BYTES_MAX: usize = 1_024;

/// A call as the trail received it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AuthorizeQuery {
    method: String,
    path: String,
    query: String,
    /// Lower-case names and values, in order.
    headers: Vec<(String, String)>,
    body: String,
    client_address: IpAddr,
}

/// The answer to anybody but the trail: no.
impl Query for AuthorizeQuery {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"clientAddress": self.client_address.to_string()}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.record.decided_by = Some("BuiltIn".to_owned());
        Err(judge.denied("*"))
    }
}

/// Judges the call that the trail received, as its caller's own.
pub(crate) async fn authorize_query(node: &Arc<Node>, call: &Call, body: &[u8]) -> Answer {
    let asked: AuthorizeQuery = match input::parse(body) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(node, call, refusal).await,
    };
    let asker = node.access.read().caller(&call.caller, call.on_behalf.as_ref());
    if asker.is_none_or(|asker| asker.role != Role::Trail) {
        return answer_query(node, call, &asked).await;
    }
    let mut received = asked.call(node);
    if received.source != SOURCE_CLOUDTRAIL || !OPERATIONS.contains(&received.operation.as_str()) {
        return refuse(node, call, Refusal::bare(RefusalKind::UnknownOperation)).await;
    }
    match asked.verify(node) {
        Ok((caller, region)) => {
            received.caller = caller;
            received.region = region;
            query::<Received>(node, &received, asked.body.as_bytes()).await
        }
        Err((claimed, refusal)) => {
            if !node.refusals.stranger(&received.source_ip, node.clock.now_us()) {
                return Answer::refused(Refusal::new(RefusalKind::Throttling, "Rate exceeded"), None);
            }
            refuse_unknown(node, &received, claimed.as_deref(), refusal, None).await
        }
    }
}

impl AuthorizeQuery {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What was called, by nobody yet.
    fn call(&self, node: &Node) -> Call {
        let (source, operation) = split_target(self.header("x-amz-target").unwrap_or_default());
        let agent = self.header("user-agent");
        Call {
            caller: CallerKey::AccessKey(String::new()),
            source,
            operation: operation.to_owned(),
            request_id: node.time_ordered_id(node.clock.now_us()),
            source_ip: self.client_address.to_canonical().to_string(),
            user_agent: agent.map(|agent| agent[..agent.floor_char_boundary(USER_AGENT_BYTES_MAX)].to_owned()),
            action: None,
            on_behalf: None,
            tls: None,
            region: node.region,
        }
    }

    /// Who signed it and for which region; else what it claims and why it is refused.
    fn verify(&self, node: &Node) -> Result<(CallerKey, Region), (Option<String>, Refusal)> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let Self { method, path, query, body, .. } = self;
        let parts = RequestParts { method, path, query, headers: &headers, body: body.as_bytes() };
        let claimed = claimed_access_key_id(&parts).map(|id| id[..id.floor_char_boundary(128)].to_owned());
        // Services call for users at the key service only.
        if self.header(ON_BEHALF_OF_HEADER).is_some() {
            let constraint = "Member must not be present";
            return Err((claimed, Refusal::constraint(None, "onBehalfOf", constraint)));
        }
        let access = Arc::clone(&node.access.read());
        let token = self.header("x-amz-security-token");
        let opened = claimed.as_deref().zip(token).and_then(|(id, token)| {
            // Few calls come this way, so nothing is remembered between them.
            Sessions::default().open(&node.root(), id, token.as_bytes())
        });
        let verifier = Verifier::new(node.regions.iter().map(Region::as_str), &["cloudtrail"]);
        let secret = |id: &str| access.secret_for(opened.as_deref(), token.is_some(), id);
        match verifier.verify(&parts, node.clock.now_us(), |id, _| secret(id)) {
            Ok(verified) => {
                let region = Region::parse(&verified.region).unwrap_or(node.region);
                let caller = match opened {
                    Some(opened) => CallerKey::Session(Arc::clone(&opened.session)),
                    None => CallerKey::AccessKey(verified.access_key_id),
                };
                Ok((caller, region))
            }
            Err(error) => Err((claimed, Refusal::from(&error))),
        }
    }
}

/// The caller's own call: its members as far as they are recorded.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Received {
    query_statement: Option<String>,
    event_data_store: Option<String>,
    query_id: Option<String>,
    query_status: Option<String>,
    max_query_results: Option<i64>,
    max_results: Option<i64>,
}

impl Query for Received {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let cut = |text: &Option<String>, bytes_max| {
            text.as_ref().map(|text| text[..text.floor_char_boundary(bytes_max)].to_owned())
        };
        recorded(
            None,
            json!({
                "queryStatement": cut(&self.query_statement, STATEMENT_BYTES_MAX),
                "eventDataStore": cut(&self.event_data_store, TEXT_BYTES_MAX),
                "queryId": cut(&self.query_id, TEXT_BYTES_MAX), "queryStatus": cut(&self.query_status, TEXT_BYTES_MAX),
                "maxQueryResults": self.max_query_results, "maxResults": self.max_results,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let (arn, account) = (judge.caller()?.arn.clone(), judge.account());
        let action = format!("cloudtrail:{}", judge.call.operation);
        judge.allow_account(&action, &Context::default())?;
        // The tables hold every account's events: another account's policies cannot open them.
        if account != judge.node.account {
            judge.record.decided_by = Some("BuiltIn".to_owned());
            return Err(judge.denied("*"));
        }
        Ok(json_body(&json!({"Arn": arn, "Account": account.as_str(), "Operation": judge.call.operation})))
    }
}
