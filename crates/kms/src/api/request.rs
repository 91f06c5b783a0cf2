//! One request: who sent it, what it asks for, and the answer.

use super::response::{self, Protocol};
use super::{Api, Peer, log, query};
use crate::auth::session::Opened;
use crate::auth::sigv4::{AuthError, RequestParts, Verified, claimed_access_key_id, claimed_service};
use crate::chain::leaf::sha256;
use crate::client::{ACTION_ID_HEADER, ON_BEHALF_OF_HEADER, SOURCE_ARN_HEADER};
use crate::event::{SOURCE_CLOUDTRAIL, TlsDetails};
use crate::key::Region;
use crate::ops::record::USER_AGENT_BYTES_MAX;
use crate::ops::refusal::{Refusal, RefusalKind};
use crate::ops::{self, ActionId, Answer, Call, CallerKey, OnBehalf};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, header};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Largest body; a policy of 32 KiB in JSON in JSON stays far below.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest body of someone unknown: a token of 20,000 characters and a session policy fit.
const TOKEN_BODY_BYTES_MAX: usize = 32 * 1024;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// From the body's end to the answer; a call still waiting for the disk then goes on without its caller.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ACTION_ID_BYTES_MAX: usize = 128;
/// Longest ARN in a header; AWS's are shorter.
const ARN_BYTES_MAX: usize = 2_048;
/// Longest host header recorded; a DNS name and its port are below.
const HOST_BYTES_MAX: usize = 261;
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// Why a connection is dropped without an answer.
#[derive(Debug, thiserror::Error)]
#[error("request body did not arrive")]
pub(crate) struct NoBody;

/// Answers one request.
pub(crate) async fn handle(
    api: Arc<Api>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, NoBody> {
    let (parts, body) = request.into_parts();
    if let Some(readers) = &api.log
        && log::is_read(&parts)
    {
        return Ok(readers.answer(&api.node, parts.uri.path()).await);
    }
    let began = Instant::now();
    let exchange = Exchange::new(&api, &peer, &parts);
    let (answer, operation) = exchange.answer(body).await?;
    let code = answer.refusal.as_ref().map(|refusal| refusal.kind.event_code());
    // A caller that proved nothing names no operation.
    api.node.calls.count(if operation.is_empty() { "none" } else { &operation }, code, began.elapsed());
    Ok(response::render(answer, exchange.protocol, &operation, exchange.request_id))
}

struct Exchange<'a> {
    api: &'a Api,
    peer: &'a Peer,
    parts: &'a Parts,
    headers: Vec<(&'a str, &'a [u8])>,
    protocol: Protocol,
    target: &'a str,
    request_id: uuid::Uuid,
}

impl<'a> Exchange<'a> {
    fn new(api: &'a Api, peer: &'a Peer, parts: &'a Parts) -> Self {
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let target = text("x-amz-target");
        let form = text("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let headers: Vec<(&str, &[u8])> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let protocol = if target.is_none() && form {
            Protocol::Query(query::service(claimed_service(&headers)))
        } else {
            Protocol::Json
        };
        let request_id = api.node.time_ordered_id(api.node.clock.now_us());
        Self { api, peer, parts, headers, protocol, target: target.unwrap_or_default(), request_id }
    }

    /// The answer, and which operation it belongs to.
    async fn answer(&self, body: Incoming) -> Result<(Answer, String), NoBody> {
        let unread = self.signed(&[]);
        let claimed = claimed_access_key_id(&unread);
        if claimed.is_none() && self.may_bring_token() {
            return self.with_token(body).await;
        }
        let access = Arc::clone(&self.api.node.access.read());
        let session = claimed.and_then(|id| self.session(id));
        let has_token = self.parts.headers.contains_key(SECURITY_TOKEN);
        let secret = |id: &str| access.secret_for(session.as_deref(), has_token, id);
        if claimed.is_none_or(|id| secret(id).is_none()) {
            // The body cannot change this; it is left unread.
            let refused = self.api.verifier.verify(&unread, self.api.node.clock.now_us(), |_, _| None).err();
            let refusal = refused.map_or_else(Refusal::internal, |error| Refusal::from(&error));
            return Ok((self.stranger(claimed, refusal).await, String::new()));
        }
        let body = match self.read(body, BODY_BYTES_MAX).await? {
            Ok(body) => body,
            Err(refusal) => return Ok((self.stranger(claimed, refusal).await, String::new())),
        };
        let now_us = self.api.node.clock.now_us();
        let verified = self.api.verifier.verify(&self.signed(&body), now_us, |id, _| secret(id));
        match verified {
            Ok(verified) => {
                let caller = match session {
                    Some(opened) => CallerKey::Session(Arc::clone(&opened.session)),
                    None => CallerKey::AccessKey(verified.access_key_id.clone()),
                };
                Ok(self.run(&verified, caller, &body).await)
            }
            Err(error) => Ok((self.stranger(claimed, Refusal::from(&error)).await, String::new())),
        }
    }

    /// Whether the request could be an AssumeRoleWithWebIdentity: a form for STS without any signature.
    fn may_bring_token(&self) -> bool {
        let form = matches!(self.protocol, Protocol::Query(service) if service == query::STS);
        let plain =
            self.parts.method == Method::POST && self.parts.uri.path() == "/" && self.parts.uri.query().is_none();
        form && plain && !self.parts.headers.contains_key(header::AUTHORIZATION)
    }

    /// Reads the body of someone unknown, as often as strangers get an event, and runs the one operation that a token in
    /// the body may authenticate.
    async fn with_token(&self, body: Incoming) -> Result<(Answer, String), NoBody> {
        let node = &self.api.node;
        if !node.refusals.stranger(&self.peer.source_ip, node.clock.now_us()) {
            return Ok((too_many(), String::new()));
        }
        let body = match self.read(body, TOKEN_BODY_BYTES_MAX).await? {
            Ok(body) => body,
            Err(refusal) => return Ok((self.refuse_stranger(None, refusal).await, String::new())),
        };
        if query::operation(&body) != ops::WITH_WEB_IDENTITY {
            let missing = Refusal::from(&AuthError::MissingToken);
            return Ok((self.refuse_stranger(None, missing).await, String::new()));
        }
        let call = self.call(CallerKey::AccessKey(String::new()), &body, false, self.api.node.region);
        let operation = call.operation.clone();
        let running = async {
            match query::json(query::STS, &body) {
                Ok(json) => ops::assume_with_web_identity(node, call, &json).await,
                Err(refusal) => ops::refuse_unknown(node, &call, None, refusal, None).await,
            }
        };
        Ok((self.in_time(running).await, operation))
    }

    /// The session that the request's token opens, if it has one and it is this access key's.
    fn session(&self, access_key_id: &str) -> Option<Arc<Opened>> {
        let token = self.parts.headers.get(SECURITY_TOKEN)?;
        self.api.sessions.open(&self.api.node.root(), access_key_id, token.as_bytes())
    }

    fn signed<'b>(&'b self, body: &'b [u8]) -> RequestParts<'b> {
        RequestParts {
            method: self.parts.method.as_str(),
            path: self.parts.uri.path(),
            query: self.parts.uri.query().unwrap_or_default(),
            headers: &self.headers,
            body,
        }
    }

    /// The whole body, in a buffer that is wiped: it may hold plaintext.
    async fn read(&self, body: Incoming, bytes_max: usize) -> Result<Result<Zeroizing<Vec<u8>>, Refusal>, NoBody> {
        let mut limited = Limited::new(body, bytes_max);
        let declared =
            self.parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let mut whole = Zeroizing::new(Vec::with_capacity(declared.unwrap_or(4_096).min(bytes_max)));
        let reading = async {
            while let Some(frame) = limited.frame().await {
                if let Some(data) = frame?.data_ref() {
                    whole.extend_from_slice(data);
                }
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        };
        match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(())) => Ok(Ok(whole)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let text = format!("The request is longer than {bytes_max} bytes.");
                Ok(Err(Refusal::new(RefusalKind::TooLarge, text)))
            }
            Ok(Err(_)) | Err(_) => Err(NoBody),
        }
    }

    /// Answers someone who did not prove who it is, with an event as long as the source's rate allows.
    async fn stranger(&self, claimed: Option<&str>, refusal: Refusal) -> Answer {
        let node = &self.api.node;
        if !node.refusals.stranger(&self.peer.source_ip, node.clock.now_us()) {
            return too_many();
        }
        self.refuse_stranger(claimed, refusal).await
    }

    async fn refuse_stranger(&self, claimed: Option<&str>, refusal: Refusal) -> Answer {
        let call = self.call(CallerKey::AccessKey(String::new()), &[], false, self.api.node.region);
        let claimed = claimed.map(|id| &id[..id.floor_char_boundary(128)]);
        ops::refuse_unknown(&self.api.node, &call, claimed, refusal, None).await
    }

    async fn run(&self, verified: &Verified, caller: CallerKey, body: &[u8]) -> (Answer, String) {
        let node = &self.api.node;
        // A signature for a region that is not served does not hold.
        let region = Region::parse(&verified.region).unwrap_or(node.region);
        let call = self.call(caller, body, verified.is_signed(ACTION_ID_HEADER), region);
        let running = async {
            if let Err(refusal) = self.check(verified, &call) {
                return ops::refuse(node, &call, refusal).await;
            }
            match self.protocol {
                Protocol::Json => {
                    let answer = ops::dispatch(node, Arc::new(call.clone()), body).await;
                    ops::witnessed(node, &call, answer).await
                }
                Protocol::Query(service) => match query::json(service, body) {
                    Ok(json) => ops::dispatch_query(node, Arc::new(call.clone()), &json).await,
                    Err(refusal) => ops::refuse(node, &call, refusal).await,
                },
            }
        };
        (self.in_time(running).await, call.operation.clone())
    }

    /// The answer, if it is there before the caller would no longer wait for it.
    async fn in_time(&self, running: impl Future<Output = Answer>) -> Answer {
        tokio::time::timeout(ANSWER_TIMEOUT, running).await.unwrap_or_else(|_| {
            self.api.node.refusals.unavailable(&self.peer.source_ip);
            Answer::refused(Refusal::internal(), None)
        })
    }

    /// What no operation should have to look at.
    fn check(&self, verified: &Verified, call: &Call) -> Result<(), Refusal> {
        if call.caller.expires_us().is_some_and(|expires_us| expires_us <= self.api.node.clock.now_us()) {
            return Err(Refusal::expired());
        }
        let wanted = match self.protocol {
            Protocol::Json if call.source == SOURCE_CLOUDTRAIL => "cloudtrail",
            Protocol::Json => "kms",
            Protocol::Query(service) => service.scope,
        };
        if verified.service != wanted {
            let text = format!("Credential should be scoped to correct service: '{wanted}'.");
            return Err(Refusal::new(RefusalKind::InvalidSignature, text));
        }
        if self.parts.method != Method::POST || self.parts.uri.path() != "/" {
            return Err(Refusal::bare(RefusalKind::UnknownOperation));
        }
        let action_id = self.header(ACTION_ID_HEADER);
        let sane =
            |id: &str| (1..=ACTION_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if action_id.is_some_and(|id| !sane(id)) {
            return Err(Refusal::constraint(None, "actionId", "Member must be 1 to 128 graphic characters"));
        }
        let is_arn = |text: &str| text.len() <= ARN_BYTES_MAX && text.starts_with("arn:");
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let [principal, source] = [ON_BEHALF_OF_HEADER, SOURCE_ARN_HEADER].map(|name| self.parts.headers.get(name));
        for value in [principal, source].into_iter().flatten() {
            if !value.to_str().is_ok_and(|text| is_arn(text) && graphic(text)) {
                return Err(Refusal::constraint(
                    None,
                    "onBehalfOf",
                    "Member must be an ARN of at most 2048 characters",
                ));
            }
        }
        if principal.is_none() && source.is_some() {
            return Err(Refusal::missing("onBehalfOf"));
        }
        Ok(())
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn tls_details(&self) -> Option<TlsDetails> {
        let tls = self.peer.tls.as_ref()?;
        let host = self.header("host").map(|host| host[..host.floor_char_boundary(HOST_BYTES_MAX)].to_owned());
        Some(TlsDetails {
            tls_version: tls.version.to_owned(),
            cipher_suite: tls.cipher_suite.map(str::to_owned),
            client_provided_host_header: host,
        })
    }

    fn call(&self, caller: CallerKey, body: &[u8], action_is_signed: bool, region: Region) -> Call {
        let (source, operation) = match self.protocol {
            Protocol::Json => ops::split_target(self.target),
            Protocol::Query(service) => (service.source, query::operation(body)),
        };
        let action = self
            .header(ACTION_ID_HEADER)
            .filter(|_| action_is_signed)
            .map(|id| ActionId { id: id.to_owned(), request_sha256: sha256(&[self.target.as_bytes(), b"\n", body]) });
        let on_behalf = self.header(ON_BEHALF_OF_HEADER).map(|principal| OnBehalf {
            principal: principal.to_owned(),
            source_arn: self.header(SOURCE_ARN_HEADER).map(str::to_owned),
        });
        let user_agent = self.parts.headers.get(header::USER_AGENT).map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text[..text.floor_char_boundary(USER_AGENT_BYTES_MAX)].to_owned()
        });
        Call {
            caller,
            source,
            operation: operation.to_owned(),
            request_id: self.request_id,
            source_ip: self.peer.source_ip.to_string(),
            user_agent,
            action,
            on_behalf,
            tls: self.tls_details(),
            region,
        }
    }
}

/// What a stranger beyond its rate gets.
fn too_many() -> Answer {
    Answer::refused(Refusal::new(RefusalKind::Throttling, "Rate exceeded"), None)
}
