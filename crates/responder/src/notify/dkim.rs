//! DKIM: the sender's domain signs a mail (RFC 6376, RFC 8463), `rsa-sha256` or `ed25519-sha256` by the key, always
//! `relaxed/relaxed`. For those who send without a relay that signs; decision 0056 says why this is code of our own.
//!
//! Signed are the whole body (no `l=`) and the fields of [`SIGNED`], each once more than it is there, so that none can be
//! added in transit. It never verifies, and asks no name server: what to publish, `keytrail notices check` prints.

use crate::config::DkimSettings;
use crate::file::read_private;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::message::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use std::path::PathBuf;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

/// The fields that are signed, those that a mail does not have among them.
pub const SIGNED: [&str; 10] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
const KEY_FILE_BYTES_MAX: usize = 16 * 1024;
/// What every verifier must know (RFC 8301); below 2,048 bits no key is loaded at all.
const RSA_BITS_MAX: usize = 4_096;
/// Base64 in one line of the signature's field.
const LINE_BYTES: usize = 72;
/// Names in one line of it.
const LINE_NAMES: usize = 3;
/// Longest string within a TXT record.
const TXT_BYTES_MAX: usize = 255;

/// Why mail cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum DkimError {
    /// The key's file cannot be read.
    #[error("DKIM key {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no key of ours. What it does hold is not told.
    #[error("DKIM key {0} is no RSA key of 2,048 to 4,096 bits and no Ed25519 key in PEM (PKCS#8, or PKCS#1 of RSA)")]
    Key(PathBuf),
    /// Domain or selector.
    #[error("DKIM {field} {value:?} is no name in the DNS (international ones in their xn-- form)")]
    Name {
        /// Which.
        field: &'static str,
        /// As configured.
        value: String,
    },
    /// A signature of another domain says nothing about the sender.
    #[error("mail from {from:?} is not of the DKIM domain {domain:?} or below it")]
    Foreign {
        /// The sender's domain.
        from: String,
        /// The one that would sign.
        domain: String,
    },
}

enum Key {
    Rsa(rsa::KeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Signs mail for one domain.
pub struct Signer {
    domain: String,
    selector: String,
    key: Key,
    /// As the record has it.
    public: String,
}

impl Signer {
    /// Checks the names and reads the key.
    pub fn read(settings: &DkimSettings) -> Result<Self, DkimError> {
        let DkimSettings { domain, selector, key_file } = settings;
        for (field, value) in [("domain", domain), ("selector", selector)] {
            if !is_name(value) {
                return Err(DkimError::Name { field, value: value.clone() });
            }
        }
        let pem = read_private(key_file, KEY_FILE_BYTES_MAX)
            .map_err(|source| DkimError::File { path: key_file.clone(), source })?;
        let (key, public) = read_key(&pem).ok_or_else(|| DkimError::Key(key_file.clone()))?;
        Ok(Self { domain: domain.clone(), selector: selector.clone(), key, public })
    }

    /// Refuses a sender for whom the signature would count nothing: DMARC asks that the domains agree.
    pub(crate) fn check_sender(&self, from: &str) -> Result<(), DkimError> {
        let (below, domain) = (from.to_ascii_lowercase(), self.domain.to_ascii_lowercase());
        let agrees = below.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let foreign = || DkimError::Foreign { from: from.to_owned(), domain: self.domain.clone() };
        agrees.then_some(()).ok_or_else(foreign)
    }

    /// `rsa-sha256` or `ed25519-sha256`.
    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Rsa(_) => "rsa-sha256",
            Key::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// Whose signature it is.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The record to publish, as a line of a zone file.
    pub fn record(&self) -> String {
        let kind = if matches!(self.key, Key::Rsa(_)) { "rsa" } else { "ed25519" };
        let text = format!("v=DKIM1; k={kind}; p={}", self.public);
        let strings: Vec<String> = pieces(&text, TXT_BYTES_MAX).map(|piece| format!("\"{piece}\"")).collect();
        format!("{}._domainkey.{}. IN TXT ( {} )", self.selector, self.domain, strings.join(" "))
    }

    /// Adds the signature's field to a mail that is otherwise ready.
    pub(crate) fn sign(&self, mail: &mut Message, at_secs: u64) -> Result<(), Unspecified> {
        let bytes = mail.formatted();
        let text = std::str::from_utf8(&bytes).map_err(|_| Unspecified)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(Unspecified)?;
        let fields = fields(head);
        let names = names(&fields);
        let listed: Vec<String> = names.chunks(LINE_NAMES).map(|some| some.join(":")).collect();
        let unsigned = format!(
            "v=1; a={}; c=relaxed/relaxed; d={};\r\n s={}; t={at_secs};\r\n h={};\r\n bh={};\r\n b=",
            self.algorithm(),
            self.domain,
            self.selector,
            listed.join(":\r\n "),
            BASE64.encode(digest(&SHA256, canonical_body(body).as_bytes())),
        );
        let signature = BASE64.encode(self.signature(&signed_text(&fields, &names, &unsigned))?);
        let value = unsigned + &pieces(&signature, LINE_BYTES).collect::<Vec<_>>().join("\r\n ");
        let name = HeaderName::new_from_ascii_str("DKIM-Signature");
        // Names, base64 and numbers of our own, folded here: nothing of an event is in it.
        mail.headers_mut().insert_raw(HeaderValue::dangerous_new_pre_encoded(name, value.clone(), value));
        Ok(())
    }

    fn signature(&self, text: &str) -> Result<Vec<u8>, Unspecified> {
        match &self.key {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)?;
                Ok(signature)
            }
            // RFC 8463: the hash is what Ed25519 signs.
            Key::Ed25519(pair) => Ok(pair.sign(digest(&SHA256, text.as_bytes()).as_ref()).as_ref().to_vec()),
        }
    }
}

/// The key and its public half. The parser's own errors are left: they may hold a line of the file.
fn read_key(pem: &[u8]) -> Option<(Key, String)> {
    match PrivateKeyDer::from_pem_slice(pem).ok()? {
        PrivateKeyDer::Pkcs1(der) => rsa_key(rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok()?),
        PrivateKeyDer::Pkcs8(der) => match Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()) {
            Ok(pair) => {
                let public = BASE64.encode(pair.public_key());
                Some((Key::Ed25519(pair), public))
            }
            Err(_) => rsa_key(rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok()?),
        },
        _ => None,
    }
}

fn rsa_key(pair: rsa::KeyPair) -> Option<(Key, String)> {
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    let public = BASE64.encode(public.as_ref());
    (pair.public_modulus_len() * 8 <= RSA_BITS_MAX).then_some((Key::Rsa(pair), public))
}

fn is_name(text: &str) -> bool {
    let in_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= 200 && text.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(in_label))
}

/// The fields of a header, name and value, the value as it was folded.
fn fields(head: &str) -> Vec<(&str, &str)> {
    let (mut fields, mut start) = (Vec::new(), 0);
    let ends = head.match_indices("\r\n").map(|(at, _)| at).chain([head.len()]);
    for end in ends {
        // A line that begins with a blank goes on with the one before.
        if !head[end..].starts_with("\r\n ") && !head[end..].starts_with("\r\n\t") {
            fields.extend(head[start..end].split_once(':'));
            start = (end + 2).min(head.len());
        }
    }
    fields
}

/// What goes into `h=`.
fn names(fields: &[(&str, &str)]) -> Vec<&'static str> {
    let times = |name: &str| 1 + fields.iter().filter(|(own, _)| own.trim_end().eq_ignore_ascii_case(name)).count();
    SIGNED.into_iter().flat_map(|name| std::iter::repeat_n(name, times(name))).collect()
}

/// What the key signs: the fields by `names`, those of one name from the last to the first, and our own without `b=`.
fn signed_text(fields: &[(&str, &str)], names: &[&str], unsigned: &str) -> String {
    let mut left: Vec<&(&str, &str)> = fields.iter().collect();
    let mut text = String::new();
    for name in names {
        let last = left.iter().rposition(|(own, _)| own.trim_end().eq_ignore_ascii_case(name));
        if let Some((own, value)) = last.map(|at| left.remove(at)) {
            text += &canonical_field(own, value);
        }
    }
    text += canonical_field("DKIM-Signature", unsigned).trim_end_matches("\r\n");
    text
}

/// RFC 6376, 3.4.2.
fn canonical_field(name: &str, value: &str) -> String {
    format!("{}:{}\r\n", name.trim_end().to_ascii_lowercase(), words(&value.replace("\r\n", "")))
}

/// RFC 6376, 3.4.4: blanks count as one, those at a line's end and empty lines at the end of all not.
fn canonical_body(body: &str) -> String {
    let mut lines: Vec<String> = body.split("\r\n").map(canonical_line).collect();
    while lines.pop_if(|line| line.is_empty()).is_some() {}
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

fn canonical_line(line: &str) -> String {
    let words = words(line);
    if line.starts_with([' ', '\t']) && !words.is_empty() { format!(" {words}") } else { words }
}

fn words(text: &str) -> String {
    text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// ASCII in pieces of this many bytes.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    text.as_bytes().chunks(bytes).map(|piece| std::str::from_utf8(piece).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{DkimSettings, SmtpSettings};
    use crate::notify::smtp::{MailError, Mailer};
    use crate::notify::{Channel as _, smtp_tests};
    use crate::testing::{SmtpSink, notice};
    use aws_lc_rs::signature::{ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
    use std::os::unix::fs::PermissionsExt as _;

    /// RFC 8463, appendix A: one mail, signed twice.
    const HEAD: &str = "From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>";
    const BODY: &str = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    const BODY_HASH: &str = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=";
    const NAMES: [&str; 8] = ["from", "to", "subject", "date", "message-id", "from", "subject", "date"];
    const ED25519_FIELD: &str = " v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; \
        i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : \
        message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    const ED25519_SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const ED25519_PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const ED25519_SIGNATURE: &str =
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==";
    const RSA_FIELD: &str = " v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; \
        i=@football.example.com;\r\n q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n date : \
        message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    const RSA_PUBLIC: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/b\
        yYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
    const RSA_SIGNATURE: &str = "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGs\
        geefOsk2JzdA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=";

    fn decoded(text: &str) -> Vec<u8> {
        BASE64.decode(text).unwrap()
    }

    #[test]
    fn relaxed_forms_are_those_of_rfc_6376() {
        let head = "A: X\r\nB : Y\t\r\n\tZ  ";
        let relaxed: String = fields(head).iter().map(|(name, value)| canonical_field(name, value)).collect();
        assert_eq!(relaxed, "a:X\r\nb:Y Z\r\n");
        assert_eq!(canonical_body(" C \r\nD \t E\r\n\r\n\r\n"), " C\r\nD E\r\n");
        assert_eq!(canonical_body("no end"), "no end\r\n");
        for empty in ["", "\r\n", " \t\r\n\r\n"] {
            assert_eq!(canonical_body(empty), "");
        }
    }

    #[test]
    fn the_mail_of_rfc_8463_gets_its_signatures() {
        assert_eq!(BASE64.encode(digest(&SHA256, canonical_body(BODY).as_bytes())), BODY_HASH);
        let fields = fields(HEAD);
        let pair = Ed25519KeyPair::from_seed_and_public_key(&decoded(ED25519_SEED), &decoded(ED25519_PUBLIC)).unwrap();
        let signer = Signer {
            domain: "football.example.com".into(),
            selector: "brisbane".into(),
            public: BASE64.encode(pair.public_key()),
            key: Key::Ed25519(pair),
        };
        let signature = signer.signature(&signed_text(&fields, &NAMES, ED25519_FIELD)).unwrap();
        assert_eq!(BASE64.encode(signature), ED25519_SIGNATURE);
        assert_eq!(
            signer.record(),
            format!("brisbane._domainkey.football.example.com. IN TXT ( \"v=DKIM1; k=ed25519; p={ED25519_PUBLIC}\" )")
        );
        // Its RSA key has 1,024 bits, with which we do not sign.
        let public = UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, decoded(RSA_PUBLIC));
        let text = signed_text(&fields, &NAMES, RSA_FIELD);
        public.verify(text.as_bytes(), &decoded(RSA_SIGNATURE)).unwrap();
    }

    #[test]
    fn of_fields_with_one_name_the_last_is_signed_first() {
        let fields = fields("To: a\r\nX: 1\r\nto : b\r\nFrom: c");
        assert_eq!(
            signed_text(&fields, &["to", "TO", "to", "from"], "b="),
            "to:b\r\nto:a\r\nfrom:c\r\ndkim-signature:b="
        );
        let names = names(&fields);
        assert_eq!(names[..5], ["From", "From", "To", "To", "To"]);
        assert_eq!(names.iter().filter(|name| **name == "Subject").count(), 1, "none may be added");
    }

    #[test]
    fn keys_are_their_owners_and_what_is_no_key_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let settings = DkimSettings {
            domain: "example.org".into(),
            selector: "keytrail".into(),
            key_file: dir.path().join("dkim.pem"),
        };
        let read = |label: &str, der: &[u8], mode: u32| {
            let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der));
            std::fs::write(&settings.key_file, text).unwrap();
            std::fs::set_permissions(&settings.key_file, std::fs::Permissions::from_mode(mode)).unwrap();
            Signer::read(&settings)
        };
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let rsa = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let rsa = rsa.as_ref();
        let pkcs8 = read("PRIVATE KEY", rsa, 0o600).unwrap();
        assert_eq!(pkcs8.algorithm(), "rsa-sha256");
        // PKCS#8 of a key with 2,048 bits is 26 bytes and PKCS#1.
        let pkcs1 = read("RSA PRIVATE KEY", &rsa[26..], 0o400).unwrap();
        assert_eq!(pkcs1.record(), pkcs8.record());
        let record = pkcs1.record();
        let strings: Vec<&str> = record.split('"').skip(1).step_by(2).collect();
        assert!(strings.iter().all(|string| string.len() <= 255) && strings.len() == 2, "{record}");
        let public = strings.concat().strip_prefix("v=DKIM1; k=rsa; p=").map(decoded).unwrap();
        let signature = pkcs1.signature("text").unwrap();
        let verifier = UnparsedPublicKey::new(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, public);
        verifier.verify(b"text", &signature).unwrap();

        let ed25519 = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        assert_eq!(read("PRIVATE KEY", ed25519.as_ref(), 0o600).unwrap().algorithm(), "ed25519-sha256");
        assert!(matches!(read("PRIVATE KEY", ed25519.as_ref(), 0o640), Err(DkimError::File { .. })));
        let secret = b"0123456789 secret";
        for (label, der) in [("PRIVATE KEY", &secret[..]), ("RSA PRIVATE KEY", rsa), ("CERTIFICATE", ed25519.as_ref())]
        {
            let error = read(label, der, 0o600).err().unwrap();
            assert!(matches!(error, DkimError::Key(_)), "{error:?}");
            assert!(!format!("{error:?} {error}").contains(&BASE64.encode(secret)));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_on_the_wire_is_what_was_signed() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("dkim.pem");
        let der = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(der.as_ref()));
        std::fs::write(&key_file, pem).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let sink = SmtpSink::start().await;
        let dkim = DkimSettings { domain: "example.org".into(), selector: "keytrail".into(), key_file };
        let foreign = DkimSettings { domain: "example.com".into(), ..dkim.clone() };
        let settings = smtp_tests::settings(sink.port);
        let with = |dkim| Mailer::new(&SmtpSettings { dkim: Some(dkim), ..settings.clone() });
        assert!(matches!(with(foreign), Err(MailError::Dkim(DkimError::Foreign { .. }))));
        let (mailer, mut one) = (with(dkim.clone()).unwrap(), notice("line\r.\r\n.\n\n\n"));
        one.subject = "subject\r\nBcc: evil@example.org ".repeat(20);
        // The answer to the first is lost, so it goes twice.
        sink.hang_up_at(".", true);
        assert!(mailer.deliver(&one).await.is_err());
        mailer.deliver(&one).await.unwrap();
        let mails = sink.mails();
        assert_eq!(mails[0], mails[1], "a repeat has the same signature");
        smtp_tests::assert_clean(&mails[0]);

        let text = String::from_utf8(mails[0].clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut all = fields(head);
        let own = all.remove(all.iter().position(|(name, _)| *name == "DKIM-Signature").unwrap()).1;
        let (unsigned, signature) = own.split_once(" b=").map(|(head, b)| (format!("{head} b="), b)).unwrap();
        let signature = decoded(&signature.replace("\r\n ", ""));
        let verify = |body: &str, fields: &[(&str, &str)], unsigned: &str| {
            let hash = format!("bh={};", BASE64.encode(digest(&SHA256, canonical_body(body).as_bytes())));
            let public = Signer::read(&dkim).unwrap().public;
            let hashed = digest(&SHA256, signed_text(fields, &names(&all), unsigned).as_bytes());
            unsigned.contains(&hash)
                && UnparsedPublicKey::new(&ED25519, decoded(&public)).verify(hashed.as_ref(), &signature).is_ok()
        };
        assert!(verify(body, &all, &unsigned));
        // Each byte of what is signed, a field that is added, and one that is taken away.
        assert!(!verify(&body.replacen('b', "c", 1), &all, &unsigned) && body.contains('b'));
        for (at, (name, value)) in all.iter().enumerate() {
            let mut changed = all.clone();
            let other = format!("{value}x");
            changed[at] = (*name, other.as_str());
            assert!(!verify(body, &changed, &unsigned), "{name} is not signed");
            changed.remove(at);
            assert!(!verify(body, &changed, &unsigned), "{name} can be taken away");
        }
        for name in SIGNED {
            let mut more = vec![(name, " added")];
            more.extend(all.iter().copied());
            assert!(!verify(body, &more, &unsigned), "{name} can be added in front");
        }
    }

    #[test]
    fn names_are_of_the_dns_and_the_senders_own() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("none");
        for (domain, selector) in
            [("", "s"), ("a..b", "s"), ("example.org", "s\r\nBcc: x"), ("exämple.org", "s"), ("a;b", "s")]
        {
            let settings =
                DkimSettings { domain: domain.into(), selector: selector.into(), key_file: key_file.clone() };
            assert!(matches!(Signer::read(&settings), Err(DkimError::Name { .. })), "{domain} {selector}");
        }
        let pair = Ed25519KeyPair::generate().unwrap();
        let signer = Signer {
            domain: "Example.org".into(),
            selector: "s".into(),
            public: String::new(),
            key: Key::Ed25519(pair),
        };
        for (from, agrees) in
            [("example.org", true), ("mail.EXAMPLE.org", true), ("badexample.org", false), ("org", false)]
        {
            assert_eq!(signer.check_sender(from).is_ok(), agrees, "{from}");
        }
    }
}
