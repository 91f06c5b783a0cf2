//! What goes into an operation and what comes out, whatever the protocol.

use super::refusal::Refusal;
use crate::auth::oidc::WebIdentity;
use crate::auth::session::Session;
use crate::event::TlsDetails;
use crate::journal::Receipt;
use crate::key::Region;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Whose call it is: looked up again at each judgement, since identities may change in between.
#[derive(Clone, Debug)]
pub(crate) enum CallerKey {
    /// The long-term access key whose signature held.
    AccessKey(String),
    /// The session whose signature and token held.
    Session(Arc<Session>),
    /// The identity whose token held.
    WebIdentity(Arc<WebIdentity>),
    /// Someone with the folder of a stopped node in hand.
    Operator,
}

impl CallerKey {
    /// When it ends, in Unix microseconds; never for long-term keys.
    pub(crate) fn expires_us(&self) -> Option<u64> {
        match self {
            Self::Session(session) => Some(session.claims.expires_us),
            Self::AccessKey(_) | Self::WebIdentity(_) | Self::Operator => None,
        }
    }
}

/// An action of the responder: its id and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActionId {
    /// As sent.
    pub(crate) id: String,
    /// SHA-256 over target and body.
    pub(crate) request_sha256: [u8; 32],
}

/// For whom a service makes its call, and for which resource of theirs. From headers under the signature; honoured only
/// from a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnBehalf {
    /// ARN of a user.
    pub(crate) principal: String,
    /// ARN of the resource.
    pub(crate) source_arn: Option<String>,
}

/// One authenticated request, without its body.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Who.
    pub(crate) caller: CallerKey,
    /// Event source.
    pub(crate) source: &'static str,
    /// Operation name.
    pub(crate) operation: String,
    /// Sent back as `x-amzn-RequestId`.
    pub(crate) request_id: Uuid,
    /// Peer address.
    pub(crate) source_ip: String,
    /// Header, cut.
    pub(crate) user_agent: Option<String>,
    /// From the signed header; honoured only from the responder.
    pub(crate) action: Option<ActionId>,
    /// Whom a service acts for.
    pub(crate) on_behalf: Option<OnBehalf>,
    /// What the call came through, if that was TLS.
    pub(crate) tls: Option<TlsDetails>,
    /// Region of the credential scope: what is not global is looked for there only.
    pub(crate) region: Region,
}

/// The outcome of a call.
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Body as the JSON protocol has it.
    pub(crate) body: Bytes,
    /// Why it was refused.
    pub(crate) refusal: Option<Refusal>,
    /// The log's receipt; none when the call could not be recorded.
    pub(crate) receipt: Option<Receipt>,
}

impl Answer {
    /// A refusal in the JSON protocol.
    pub(crate) fn refused(refusal: Refusal, receipt: Option<Receipt>) -> Self {
        let mut body = serde_json::json!({"__type": refusal.kind.wire_name()});
        if let Some(message) = &refusal.message {
            body["message"] = message.as_ref().into();
        }
        Self { status: refusal.kind.status(), body: body.to_string().into(), refusal: Some(refusal), receipt }
    }
}

/// A JSON body without secrets.
pub(crate) fn json_body(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}

/// A member of an answer that may hold secrets.
#[derive(Clone, Copy)]
pub(crate) enum Member<'a> {
    /// A name, ARN, id or algorithm: nothing that needs escapes in JSON.
    Text(&'a str),
    /// Bytes, as base64.
    Bytes(&'a [u8]),
}

/// An answer that holds plaintext or private keys: written once into a buffer that is wiped when the connection is done
/// with it.
pub(crate) fn secret_body(members: &[(&str, Member<'_>)]) -> Bytes {
    // Quotes, colon and comma of each member, and base64's padding.
    let room: usize = members.iter().map(|(name, member)| name.len() + member.room() + 10).sum();
    let mut text = Zeroizing::new(String::with_capacity(room + 2));
    text.push('{');
    for (index, (name, member)) in members.iter().enumerate() {
        text.push_str(if index == 0 { "\"" } else { ",\"" });
        text.push_str(name);
        text.push_str("\":");
        member.write(&mut text);
    }
    text.push('}');
    debug_assert!(text.len() <= room + 2, "a grown buffer leaves a copy behind");
    Bytes::from_owner(text)
}

impl Member<'_> {
    fn room(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len().div_ceil(3) * 4,
        }
    }

    fn write(self, out: &mut String) {
        match self {
            Self::Text(text) => {
                debug_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'));
                out.push('"');
                out.push_str(text);
                out.push('"');
            }
            Self::Bytes(bytes) => {
                out.push('"');
                STANDARD.encode_string(bytes, out);
                out.push('"');
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_body_is_the_json_of_its_members() {
        let members =
            [("KeyId", Member::Text("arn:aws:kms:eu-central-1:1:key/x")), ("Plaintext", Member::Bytes(b"\x00secret"))];
        let value: serde_json::Value = serde_json::from_slice(&secret_body(&members)).unwrap();
        let expected = serde_json::json!({
            "KeyId": "arn:aws:kms:eu-central-1:1:key/x", "Plaintext": "AHNlY3JldA==",
        });
        assert_eq!(value, expected);
        assert_eq!(secret_body(&[]), "{}");
    }
}
