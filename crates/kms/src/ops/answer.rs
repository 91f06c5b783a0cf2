//! What goes into an operation and what comes out, whatever the protocol.

use super::refusal::Refusal;
use crate::crypto::SecretBytes;
use crate::journal::Receipt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Whose call it is: looked up again at each judgement, since identities may change in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallerKey {
    /// The access key whose signature held.
    AccessKey(String),
    /// Someone with the folder of a stopped node in hand.
    Operator,
}

/// An action of the responder: its id and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActionId {
    /// As sent.
    pub(crate) id: String,
    /// SHA-256 over target and body.
    pub(crate) request_sha256: [u8; 32],
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
    /// Whether the call came over TLS.
    pub(crate) secure_transport: bool,
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

/// The answer of Decrypt and GenerateDataKey. It holds plaintext: written once into a buffer that is wiped when the
/// connection is done with it.
pub(crate) fn data_key_body(key_arn: &str, plaintext: Option<&SecretBytes>, ciphertext: Option<&[u8]>) -> Bytes {
    let secret_bytes = plaintext.map_or(0, SecretBytes::len);
    let room = 256 + key_arn.len() + (secret_bytes + ciphertext.map_or(0, <[u8]>::len)) * 4 / 3;
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.push_str("{\"KeyId\":\"");
    // An ARN needs no escapes in JSON, nor does base64.
    text.push_str(key_arn);
    if let Some(ciphertext) = ciphertext {
        text.push_str("\",\"CiphertextBlob\":\"");
        STANDARD.encode_string(ciphertext, &mut text);
    }
    match plaintext {
        Some(plaintext) => {
            text.push_str("\",\"Plaintext\":\"");
            STANDARD.encode_string(plaintext.expose(), &mut text);
            text.push_str(if ciphertext.is_none() {
                "\",\"EncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\"}"
            } else {
                "\"}"
            });
        }
        None => text.push_str("\"}"),
    }
    debug_assert!(text.len() <= room, "a grown buffer leaves a copy behind");
    Bytes::from_owner(text)
}
