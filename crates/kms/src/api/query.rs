//! AWS's query protocol: a form in, XML out, for STS and IAM.
//!
//! The form becomes the JSON that operations read (`Tags.member.1.Key=a` is `{"Tags":[{"Key":"a"}]}`, every value a
//! text), and their JSON becomes XML, member by member and without a copy that is not wiped: both may hold secrets.

use crate::event::{SOURCE_IAM, SOURCE_STS};
use crate::ops::Answer;
use crate::ops::refusal::{Refusal, RefusalKind};
use bytes::Bytes;
use percent_encoding::percent_decode;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Pairs in one form; fifty tags have a hundred.
const PAIRS_MAX: usize = 1_000;
/// Parts of one name: `Tags.member.1.Key` has four.
const PARTS_MAX: usize = 6;

/// A service that speaks the query protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// In events.
    pub(crate) source: &'static str,
    /// In credential scopes.
    pub(crate) scope: &'static str,
    version: &'static str,
    namespace: &'static str,
}

/// The Security Token Service.
pub(crate) const STS: Service = Service {
    source: SOURCE_STS,
    scope: "sts",
    version: "2011-06-15",
    namespace: "https://sts.amazonaws.com/doc/2011-06-15/",
};

/// Identity and Access Management.
pub(crate) const IAM: Service = Service {
    source: SOURCE_IAM,
    scope: "iam",
    version: "2010-05-08",
    namespace: "https://iam.amazonaws.com/doc/2010-05-08/",
};

/// The service that a request's credential scope names; STS when it names none of them.
pub(crate) fn service(scope: Option<&str>) -> Service {
    if scope == Some(IAM.scope) { IAM } else { STS }
}

/// The `Action` of a form, if it is a name that may go into the log.
pub(crate) fn operation(body: &[u8]) -> &str {
    let action = body.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"Action="));
    let sane = |name: &&[u8]| (1..=64).contains(&name.len()) && name.iter().all(u8::is_ascii_alphanumeric);
    action.filter(sane).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("Unknown")
}

/// A form's value or the values below a name.
enum Field {
    Text(Zeroizing<String>),
    Members(BTreeMap<String, Field>),
}

/// The form as a JSON object.
pub(crate) fn json(service: Service, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let malformed = || Refusal::new(RefusalKind::Serialization, "The request body is not a form this service reads.");
    let mut root = BTreeMap::new();
    for (index, pair) in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).enumerate() {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = (decoded(&pair[..at]), decoded(pair.get(at + 1..).unwrap_or_default()));
        let (Some(name), Some(value)) = (name, value) else { return Err(malformed()) };
        let parts: Vec<&str> = name.split('.').collect();
        if index >= PAIRS_MAX || parts.len() > PARTS_MAX || insert(&mut root, &parts, value).is_none() {
            return Err(malformed());
        }
    }
    let version = match root.get("Version") {
        Some(Field::Text(version)) => version.as_str(),
        _ => "",
    };
    if version != service.version {
        return Err(unknown_action(service, operation(body)));
    }
    // JSON's quotes and escapes add less than the form's own encoding.
    let mut out = Zeroizing::new(Vec::with_capacity(2 * body.len() + 64));
    write_members(&mut out, &root);
    Ok(out)
}

/// What AWS says to an action that the service does not have.
pub(crate) fn unknown_action(service: Service, name: &str) -> Refusal {
    let text = format!("Could not find operation {name} for version {}", service.version);
    Refusal::new(RefusalKind::UnknownOperation, text)
}

fn decoded(text: &[u8]) -> Option<Zeroizing<String>> {
    let spaced: Zeroizing<Vec<u8>> = Zeroizing::new(text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect());
    let mut bytes = Zeroizing::new(Vec::with_capacity(spaced.len()));
    bytes.extend(percent_decode(&spaced));
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

/// Puts a value in its place. None when the place is taken, or is a value and has values below it.
fn insert(members: &mut BTreeMap<String, Field>, parts: &[&str], value: Zeroizing<String>) -> Option<()> {
    let (first, rest) = parts.split_first()?;
    if first.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return members.insert((*first).to_owned(), Field::Text(value)).is_none().then_some(());
    }
    match members.entry((*first).to_owned()).or_insert_with(|| Field::Members(BTreeMap::new())) {
        Field::Members(below) => insert(below, rest, value),
        Field::Text(_) => None,
    }
}

fn write(out: &mut Vec<u8>, field: &Field) {
    match field {
        Field::Text(text) => write_text(out, text),
        Field::Members(members) => match listed(members) {
            Some(list) => {
                out.push(b'[');
                for (index, entry) in list.into_values().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write(out, entry);
                }
                out.push(b']');
            }
            None => write_members(out, members),
        },
    }
}

fn write_members(out: &mut Vec<u8>, members: &BTreeMap<String, Field>) {
    out.push(b'{');
    for (index, (name, field)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write(out, field);
    }
    out.push(b'}');
}

/// The entries of `member.1`, `member.2` and so on, in order of their numbers.
fn listed(members: &BTreeMap<String, Field>) -> Option<BTreeMap<u32, &Field>> {
    match (members.len(), members.get("member")) {
        (1, Some(Field::Members(list))) => {
            list.iter().map(|(number, entry)| Some((number.parse().ok()?, entry))).collect()
        }
        _ => None,
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text can be written to memory");
}

/// Status and XML of an outcome.
pub(crate) fn render(service: Service, answer: &Answer, operation: &str, request_id: &str) -> (u16, Bytes) {
    match &answer.refusal {
        None => (200, success(service, &answer.body, operation, request_id)),
        Some(refusal) => error(service, refusal, request_id),
    }
}

/// `<XResponse><XResult>...</XResult>...`; an operation without an answer has no result.
pub(crate) fn success(service: Service, body: &[u8], operation: &str, request_id: &str) -> Bytes {
    // Lists repeat their names: a full page of users is some hundred KiB, a secret never near the buffer's end.
    let mut out = Zeroizing::new(String::with_capacity(2_048 + 4 * body.len()));
    out.push_str(&format!("<{operation}Response xmlns=\"{}\">", service.namespace));
    if body.len() > 2 {
        let tag = format!("{operation}Result");
        let mut json = serde_json::Deserializer::from_slice(body);
        let written = Element { out: &mut out, tag: &tag }.deserialize(&mut json);
        written.expect("answers are written by us and are JSON");
    }
    out.push_str(&format!(
        "<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
    ));
    Bytes::from_owner(out)
}

fn error(service: Service, refusal: &Refusal, request_id: &str) -> (u16, Bytes) {
    let (status, code) = code(refusal.kind);
    let side = if status == 500 { "Receiver" } else { "Sender" };
    let mut message = String::new();
    push_escaped(&mut message, refusal.message.as_deref().unwrap_or_default());
    let xml = format!(
        "<ErrorResponse xmlns=\"{}\"><Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>",
        service.namespace
    );
    (status, xml.into())
}

/// Status and code of AWS's query services.
fn code(kind: RefusalKind) -> (u16, &'static str) {
    match kind {
        RefusalKind::MissingAuthenticationToken => (403, "MissingAuthenticationToken"),
        RefusalKind::IncompleteSignature => (400, "IncompleteSignature"),
        RefusalKind::InvalidSignature => (403, "SignatureDoesNotMatch"),
        RefusalKind::UnrecognizedClient => (403, "InvalidClientTokenId"),
        RefusalKind::ExpiredToken => (403, "ExpiredToken"),
        RefusalKind::InvalidIdentityToken => (400, "InvalidIdentityToken"),
        RefusalKind::IdpCommunication => (400, "IDPCommunicationError"),
        RefusalKind::IdpRejectedClaim => (403, "IDPRejectedClaim"),
        RefusalKind::AccessDenied => (403, "AccessDenied"),
        RefusalKind::UnknownOperation => (400, "InvalidAction"),
        RefusalKind::Throttling => (400, "Throttling"),
        RefusalKind::Validation => (400, "ValidationError"),
        RefusalKind::Serialization => (400, "MalformedInput"),
        RefusalKind::MalformedPolicy => (400, "MalformedPolicyDocument"),
        RefusalKind::NoSuchEntity => (404, "NoSuchEntity"),
        RefusalKind::EntityAlreadyExists => (409, "EntityAlreadyExists"),
        RefusalKind::DeleteConflict => (409, "DeleteConflict"),
        RefusalKind::LimitExceeded => (409, "LimitExceeded"),
        RefusalKind::InvalidInput => (400, "InvalidInput"),
        RefusalKind::InvalidParameterValue => (400, "InvalidParameterValue"),
        RefusalKind::InvalidAuthenticationCode => (403, "InvalidAuthenticationCode"),
        RefusalKind::UnmodifiableEntity => (400, "UnmodifiableEntity"),
        RefusalKind::PackedPolicyTooLarge => (400, "PackedPolicyTooLarge"),
        RefusalKind::TooLarge => (413, "RequestEntityTooLarge"),
        RefusalKind::Internal => (500, "InternalFailure"),
        other => (400, other.wire_name()),
    }
}

/// Writes JSON as an XML element: objects by their members, lists as `<member>`s, null not at all.
struct Element<'a> {
    out: &'a mut String,
    tag: &'a str,
}

impl Element<'_> {
    fn wrap(mut self, content: impl FnOnce(&mut String)) {
        self.open();
        content(self.out);
        self.close();
    }

    fn open(&mut self) {
        self.out.push('<');
        self.out.push_str(self.tag);
        self.out.push('>');
    }

    fn close(&mut self) {
        self.out.push_str("</");
        self.out.push_str(self.tag);
        self.out.push('>');
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.wrap(|out| out.push_str(if value { "true" } else { "false" }));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.wrap(|out| out.push_str(&value.to_string()));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.wrap(|out| out.push_str(&value.to_string()));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.wrap(|out| push_escaped(out, text));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.open();
        while list.next_element_seed(Element { out: &mut *self.out, tag: "member" })?.is_some() {}
        self.close();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.open();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(Element { out: &mut *self.out, tag: &name })?;
        }
        self.close();
        Ok(())
    }
}

/// Text for an XML element; what XML cannot hold becomes a question mark.
fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            control if control.is_control() && !matches!(control, '\t' | '\n' | '\r') => out.push('?'),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(form: &str) -> Option<String> {
        let body = format!("Version=2011-06-15&{form}");
        json(STS, body.as_bytes()).ok().map(|json| String::from_utf8(json.to_vec()).unwrap())
    }

    #[test]
    fn the_action_is_found_and_a_strange_one_is_not_logged() {
        assert_eq!(operation(b"Action=GetCallerIdentity&Version=2011-06-15"), "GetCallerIdentity");
        assert_eq!(operation(b"Version=2011-06-15&Action=X"), "X");
        assert_eq!(operation(b"Action=%3Cscript%3E"), "Unknown");
        assert_eq!(operation(b""), "Unknown");
    }

    #[test]
    fn a_form_becomes_json() {
        let want = r#"{"Tags":[{"Key":"b","Value":"1 &"},{"Key":"a"}],"Version":"2011-06-15"}"#;
        let form = "Tags.member.10.Key=a&Tags.member.2.Key=b&Tags.member.2.Value=1+%26";
        assert_eq!(read(form).as_deref(), Some(want));
        assert_eq!(read("A=%22&&B").as_deref(), Some(r#"{"A":"\"","B":"","Version":"2011-06-15"}"#));
        for wrong in ["A=1&A=2", "A=1&A.member.1=2", "A.member.1=2&A=1", "A=%ff", "=1", "A.b.c.d.e.f.g=1", "A..b=1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("a=1&").as_deref(), Some(r#"{"Version":"2011-06-15","a":"1"}"#));
        let many: String = (0..PAIRS_MAX).map(|n| format!("a{n}=1&")).collect();
        assert_eq!(read(&many), None);
        assert!(json(STS, b"Action=GetCallerIdentity&Version=2010-05-08").is_err());
    }

    #[test]
    fn answers_become_xml_and_are_escaped() {
        let body = br#"{"A":{"B":"<x>","C":true,"D":5},"E":[{"F":"1"},{"F":"2"}],"G":null}"#;
        let xml = success(STS, body, "Op", "id");
        let want = "<OpResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><OpResult><A><B>&lt;x&gt;</B><C>true</C>\
                    <D>5</D></A><E><member><F>1</F></member><member><F>2</F></member></E></OpResult><ResponseMetadata>\
                    <RequestId>id</RequestId></ResponseMetadata></OpResponse>";
        assert_eq!(std::str::from_utf8(&xml).unwrap(), want);
        let xml = success(STS, b"{}", "Op", "id");
        assert!(!std::str::from_utf8(&xml).unwrap().contains("OpResult"));
        let (status, xml) = error(STS, &Refusal::new(RefusalKind::InvalidSignature, "<&>"), "id");
        assert_eq!(status, 403);
        assert!(std::str::from_utf8(&xml).unwrap().contains("<Message>&lt;&amp;&gt;</Message>"));
    }

    proptest! {
        #[test]
        fn any_form_gets_an_answer(form in "[A-Za-z0-9.=&%+]{0,80}") {
            if let Some(json) = read(&form) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
            }
        }
    }
}
