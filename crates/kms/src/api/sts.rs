//! STS over the query protocol: GetCallerIdentity, which SDKs and people use to see who they are.

use crate::node::Node;
use crate::ops::refusal::{Refusal, RefusalKind};
use crate::ops::{self, Answer, Call};
use std::sync::Arc;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The `Action` of a form, if it is a name that may go into the log.
pub(crate) fn operation(body: &[u8]) -> &str {
    let action = body.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"Action="));
    let sane = |name: &&[u8]| (1..=64).contains(&name.len()) && name.iter().all(u8::is_ascii_alphanumeric);
    action.filter(sane).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("Unknown")
}

/// Runs an authenticated STS call.
pub(crate) async fn run(node: &Arc<Node>, call: &Call) -> Answer {
    match call.operation.as_str() {
        "GetCallerIdentity" => ops::caller_identity(node, call).await,
        name => {
            let text = format!("Could not find operation {name} for version 2011-06-15");
            ops::refuse(node, call, Refusal::new(RefusalKind::UnknownOperation, text)).await
        }
    }
}

/// Status and XML of an outcome.
pub(crate) fn render(answer: &Answer, request_id: &str) -> (u16, String) {
    match &answer.refusal {
        None => (200, identity(&answer.body, request_id)),
        Some(refusal) => error(refusal, request_id),
    }
}

fn identity(body: &[u8], request_id: &str) -> String {
    let identity: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name: &str| escaped(identity[name].as_str().unwrap_or_default());
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult><Arn>{}</Arn><UserId>{}</UserId>\
         <Account>{}</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>",
        member("Arn"),
        member("UserId"),
        member("Account"),
    )
}

fn error(refusal: &Refusal, request_id: &str) -> (u16, String) {
    let (status, code) = match refusal.kind {
        RefusalKind::MissingAuthenticationToken => (403, "MissingAuthenticationToken"),
        RefusalKind::IncompleteSignature => (400, "IncompleteSignature"),
        RefusalKind::InvalidSignature => (403, "SignatureDoesNotMatch"),
        RefusalKind::UnrecognizedClient => (403, "InvalidClientTokenId"),
        RefusalKind::AccessDenied => (403, "AccessDenied"),
        RefusalKind::UnknownOperation => (400, "InvalidAction"),
        RefusalKind::Throttling => (400, "Throttling"),
        RefusalKind::TooLarge => (413, "RequestEntityTooLarge"),
        RefusalKind::Internal => (500, "InternalFailure"),
        other => (400, other.wire_name()),
    };
    let side = if status == 500 { "Receiver" } else { "Sender" };
    let message = escaped(refusal.message.as_deref().unwrap_or_default());
    let xml = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message>\
         </Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    );
    (status, xml)
}

/// Text for an XML element; what XML cannot hold becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            control if control.is_control() && !matches!(control, '\t' | '\n' | '\r') => out.push('?'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_action_is_found_and_a_strange_one_is_not_logged() {
        assert_eq!(operation(b"Action=GetCallerIdentity&Version=2011-06-15"), "GetCallerIdentity");
        assert_eq!(operation(b"Version=2011-06-15&Action=X"), "X");
        assert_eq!(operation(b"Action=%3Cscript%3E"), "Unknown");
        assert_eq!(operation(b""), "Unknown");
    }

    #[test]
    fn errors_are_escaped() {
        let (status, xml) = error(&Refusal::new(RefusalKind::InvalidSignature, "<&>"), "id");
        assert_eq!(status, 403);
        assert!(xml.contains("<Message>&lt;&amp;&gt;</Message>"), "{xml}");
    }
}
