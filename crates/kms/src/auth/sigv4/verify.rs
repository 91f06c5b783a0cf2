//! Judging a request's signature: who signed it, or which AWS error it earns.
//!
//! Order: shape of the header, scope, time, coverage, access key, signature. An unknown access key is told apart from a
//! wrong signature, as AWS does; secrets are compared only through HMACs, in constant time. Nothing is cached for a
//! request that is not from a known access key in today's scope, so strangers cannot fill the cache.

use std::collections::HashMap;

use aws_lc_rs::{digest, hmac};
use parking_lot::Mutex;

use super::{ALGORITHM, CLOCK_SKEW_SECS_MAX, RequestParts, Scope, SecretKey, TERMINATOR, canonical};
use super::{amz_date, parse_amz_date, signing_key, string_to_sign};

/// Longest `Authorization` header that is looked at, in bytes; the SDKs' stay below 500.
const AUTHORIZATION_BYTES_MAX: usize = 4096;
/// Most names in SignedHeaders; the SDKs sign fewer than 15.
const SIGNED_HEADERS_MAX: usize = 64;
/// Derived keys kept; one an access key, day, region and service in use.
const CACHED_KEYS_MAX: usize = 4096;

/// Headers that decide what a request means: repeated or left unsigned, they would let a middleman change it.
const DECISIVE_HEADERS: [&str; 7] = [
    "host",
    "x-amz-date",
    "x-amz-target",
    "x-amz-security-token",
    "x-keytrail-action-id",
    "x-keytrail-on-behalf-of",
    "x-keytrail-source-arn",
];

/// Why a request was turned away before anything was looked up for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no `Authorization` header.
    #[error("Missing Authentication Token")]
    MissingToken,
    /// The header, or `x-amz-date`, is not of the form that SigV4 asks for. The text is AWS's and safe to send.
    #[error("{0}")]
    Incomplete(String),
    /// Well-formed, but out of scope, out of time, not covering what it must, or simply wrong. Safe to send.
    #[error("{0}")]
    InvalidSignature(String),
    /// No active access key has this id.
    #[error("The security token included in the request is invalid.")]
    UnknownAccessKey,
}

impl AuthError {
    /// The exception's name in JSON services such as KMS.
    pub fn exception(&self) -> &'static str {
        match self {
            Self::MissingToken => "MissingAuthenticationTokenException",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::InvalidSignature(_) => "InvalidSignatureException",
            Self::UnknownAccessKey => "UnrecognizedClientException",
        }
    }

    /// The error code in query services such as STS.
    pub fn query_code(&self) -> &'static str {
        match self {
            Self::MissingToken => "MissingAuthenticationToken",
            Self::Incomplete(_) => "IncompleteSignature",
            Self::InvalidSignature(_) => "SignatureDoesNotMatch",
            Self::UnknownAccessKey => "InvalidClientTokenId",
        }
    }
}

/// A request whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose secret signed it.
    pub access_key_id: String,
    /// Region of the credential scope, one of those expected.
    pub region: String,
    /// Service of the credential scope: `kms` or `sts`.
    pub service: String,
    /// Lower-case names of the headers under the signature.
    pub signed_headers: Vec<String>,
}

impl Verified {
    /// Whether the signature covers this header; `name` in lower case.
    pub fn is_signed(&self, name: &str) -> bool {
        self.signed_headers.iter().any(|signed| signed == name)
    }
}

/// Verifies signatures for fixed sets of regions and services, and remembers derived keys.
pub struct Verifier {
    regions: Vec<String>,
    services: Vec<String>,
    keys: Mutex<HashMap<CacheKey, hmac::Key>>,
}

/// Serial of the secret, day number as written, index of the region and of the service.
type CacheKey = (u64, [u8; 8], (usize, usize));

impl Verifier {
    /// A verifier that accepts scopes of these regions and these services only.
    pub fn new<R: AsRef<str>>(regions: impl IntoIterator<Item = R>, services: &[&str]) -> Self {
        let regions = regions.into_iter().map(|region| region.as_ref().to_owned()).collect();
        let services = services.iter().map(|service| (*service).to_owned()).collect();
        Self { regions, services, keys: Mutex::new(HashMap::new()) }
    }

    /// Checks the signature. `lookup` gives the secret of an active access key: a long-term one without a session token,
    /// a temporary one with its own.
    pub fn verify<'s>(
        &self,
        parts: &RequestParts<'_>,
        now_us: u64,
        lookup: impl FnOnce(&str, Option<&[u8]>) -> Option<&'s SecretKey>,
    ) -> Result<Verified, AuthError> {
        let header = Authorization::of(parts)?;
        let place = self.check_scope(&header)?;
        let stamp = check_time(parts, &header, now_us)?;
        check_coverage(parts, &header.signed)?;
        let token = parts.values("x-amz-security-token").next();
        let secret = lookup(header.access_key_id, token).ok_or(AuthError::UnknownAccessKey)?;
        let scope = Scope { date: header.date, region: header.region, service: header.service };
        let request_hash = digest::digest(&digest::SHA256, &canonical::request(parts, &header.signed));
        let signed = string_to_sign(stamp, &scope, request_hash.as_ref());
        let key = self.derived_key(secret, &scope, place);
        hmac::verify(&key, signed.as_bytes(), &header.signature).map_err(|_| {
            AuthError::InvalidSignature(
                "The request signature we calculated does not match the signature you provided. Check your AWS \
                 Secret Access Key and signing method. Consult the service documentation for details."
                    .into(),
            )
        })?;
        Ok(Verified {
            access_key_id: header.access_key_id.to_owned(),
            region: header.region.to_owned(),
            service: header.service.to_owned(),
            signed_headers: header.signed.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// The indices of the scope's region and service.
    fn check_scope(&self, header: &Authorization<'_>) -> Result<(usize, usize), AuthError> {
        if header.terminator != TERMINATOR {
            return Err(invalid(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                header.terminator
            )));
        }
        let region = self.regions.iter().position(|region| region == header.region).ok_or_else(|| {
            invalid(format!("Credential should be scoped to a valid region, not '{}'.", header.region))
        })?;
        let service = self.services.iter().position(|service| service == header.service).ok_or_else(|| {
            let wanted: Vec<String> = self.services.iter().map(|service| format!("'{service}'")).collect();
            invalid(format!("Credential should be scoped to correct service: {}.", wanted.join(" or ")))
        })?;
        Ok((region, service))
    }

    fn derived_key(&self, secret: &SecretKey, scope: &Scope<'_>, place: (usize, usize)) -> hmac::Key {
        let mut date = [0; 8];
        // `check_time` has compared the date with the first eight bytes of a valid x-amz-date.
        date.copy_from_slice(scope.date.as_bytes());
        let cache_key = (secret.serial(), date, place);
        if let Some(key) = self.keys.lock().get(&cache_key) {
            return key.clone();
        }
        let key = signing_key(secret, scope);
        let mut keys = self.keys.lock();
        if keys.len() >= CACHED_KEYS_MAX {
            // Yesterday's keys and replaced secrets; the live ones are derived again in microseconds.
            keys.clear();
        }
        keys.insert(cache_key, key.clone());
        key
    }
}

/// The access key id that a request claims, unchecked: for the record of a refusal only.
pub fn claimed_access_key_id<'a>(parts: &RequestParts<'a>) -> Option<&'a str> {
    Authorization::of(parts).ok().map(|header| header.access_key_id)
}

/// The service that a request's credential scope names, unchecked: to know whose errors to speak in.
pub fn claimed_service<'a>(headers: &[(&'a str, &'a [u8])]) -> Option<&'a str> {
    let parts = RequestParts { method: "", path: "", query: "", headers, body: &[] };
    let mut values = headers.iter().filter(|(name, _)| *name == "authorization").map(|(_, value)| *value);
    Authorization::of(&parts).ok()?;
    let text = std::str::from_utf8(values.next()?).ok()?;
    text.split_once("Credential=")?.1.split([',', ' ']).next()?.split('/').nth(3)
}

/// The parsed header; nothing in it is believed yet.
struct Authorization<'a> {
    access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed: Vec<&'a str>,
    signature: [u8; 32],
}

impl<'a> Authorization<'a> {
    fn of(parts: &RequestParts<'a>) -> Result<Self, AuthError> {
        let mut values = parts.values("authorization");
        let value = values.next().ok_or(AuthError::MissingToken)?;
        if values.next().is_some() {
            return Err(incomplete("Authorization header appears more than once."));
        }
        if value.len() > AUTHORIZATION_BYTES_MAX {
            return Err(incomplete("Authorization header is too long."));
        }
        let text = std::str::from_utf8(value).map_err(|_| incomplete("Authorization header is not text."))?.trim();
        if text.is_empty() {
            return Err(AuthError::MissingToken);
        }
        let rest = text
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with([' ', '\t']))
            .ok_or_else(|| incomplete(&format!("Unsupported AWS 'algorithm', expected '{ALGORITHM}'.")))?;
        Self::parse(rest)
    }

    fn parse(fields: &'a str) -> Result<Self, AuthError> {
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for field in fields.split(',').map(str::trim) {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| incomplete("Authorization header has a field that is not of the form key=value."))?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return Err(incomplete("Authorization header has an unknown parameter.")),
            };
            if place.replace(value).is_some() {
                return Err(incomplete(&format!("Authorization header has more than one '{name}' parameter.")));
            }
        }
        let needs = |name| incomplete(&format!("Authorization header requires '{name}' parameter."));
        let credential = credential.filter(|value| !value.is_empty()).ok_or_else(|| needs("Credential"))?;
        let signature = signature.filter(|value| !value.is_empty()).ok_or_else(|| needs("Signature"))?;
        let signed = signed.filter(|value| !value.is_empty()).ok_or_else(|| needs("SignedHeaders"))?;
        let [access_key_id, date, region, service, terminator] = split_credential(credential)?;
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            terminator,
            signed: split_signed_headers(signed)?,
            signature: decode_signature(signature),
        })
    }
}

fn split_credential(credential: &str) -> Result<[&str; 5], AuthError> {
    let parts: Vec<&str> = credential.split('/').collect();
    let parts: [&str; 5] = parts.try_into().map_err(|_| {
        incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.")
    })?;
    // Echoed in messages and recorded, so only what a credential may hold.
    let plain =
        |text: &&str| text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if parts.iter().all(plain) {
        Ok(parts)
    } else {
        Err(incomplete("Credential has characters that no credential has."))
    }
}

/// As sent, but lower-case, sorted and without repeats: anything else is not what a client signed.
fn split_signed_headers(signed: &str) -> Result<Vec<&str>, AuthError> {
    let names: Vec<&str> = signed.split(';').collect();
    let lower = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
    if names.len() > SIGNED_HEADERS_MAX || !names.iter().all(lower) || !names.is_sorted_by(|a, b| a < b) {
        return Err(incomplete("SignedHeaders must be sorted lower-case header names, each once."));
    }
    Ok(names)
}

/// A signature that is not 64 lower-case hex digits matches nothing.
fn decode_signature(text: &str) -> [u8; 32] {
    let mut signature = [0; 32];
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) || hex::decode_to_slice(text, &mut signature).is_err() {
        return [0; 32];
    }
    signature
}

/// The value of `x-amz-date`, near enough to `now_us` and of the same day as the scope.
fn check_time<'a>(parts: &RequestParts<'a>, header: &Authorization<'_>, now_us: u64) -> Result<&'a str, AuthError> {
    let stamp = parts.values("x-amz-date").next().ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    let parsed = std::str::from_utf8(stamp).ok().and_then(|text| Some((text, parse_amz_date(text)?)));
    let Some((stamp, signed_secs)) = parsed else {
        return Err(incomplete("Date must be in ISO-8601 'basic format', e.g. 20260105T120000Z."));
    };
    if Some(header.date) != stamp.get(..8) {
        return Err(invalid(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.".into(),
        ));
    }
    let now_secs = now_us / 1_000_000;
    if signed_secs + CLOCK_SKEW_SECS_MAX < now_secs {
        let earliest = amz_date(now_secs.saturating_sub(CLOCK_SKEW_SECS_MAX) * 1_000_000);
        let now = amz_date(now_us);
        return Err(invalid(format!("Signature expired: {stamp} is now earlier than {earliest} ({now} - 5 min.)")));
    }
    if now_secs + CLOCK_SKEW_SECS_MAX < signed_secs {
        let latest = amz_date((now_secs + CLOCK_SKEW_SECS_MAX) * 1_000_000);
        let now = amz_date(now_us);
        return Err(invalid(format!(
            "Signature not yet current: {stamp} is still later than {latest} ({now} + 5 min.)"
        )));
    }
    Ok(stamp)
}

/// Every decisive header that is there is signed and there once; host and date are there; no signed header is missing.
fn check_coverage(parts: &RequestParts<'_>, signed: &[&str]) -> Result<(), AuthError> {
    for name in DECISIVE_HEADERS {
        let present = parts.values(name).count();
        let required = matches!(name, "host" | "x-amz-date");
        if present > 1 {
            return Err(incomplete(&format!("'{name}' appears more than once.")));
        }
        if (present == 1 || required) && signed.binary_search(&name).is_err() {
            return Err(invalid(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
        }
    }
    match signed.iter().find(|name| parts.values(name).next().is_none()) {
        Some(_) => Err(invalid("A header named in SignedHeaders is not in the request.".into())),
        None => Ok(()),
    }
}

fn incomplete(text: &str) -> AuthError {
    AuthError::Incomplete(text.to_owned())
}

fn invalid(text: String) -> AuthError {
    AuthError::InvalidSignature(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::credentials::Credentials;
    use crate::auth::sigv4::sign;
    use proptest::prelude::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2026-01-05T12:00:00Z.
    const NOON: u64 = 1_767_614_400_000_000;

    fn credentials() -> Credentials {
        Credentials { access_key_id: "AKIDEXAMPLE12345".into(), secret: SecretKey::new(SECRET.into()).unwrap() }
    }

    type Headers = Vec<(&'static str, Vec<u8>)>;

    fn judge(
        verifier: &Verifier,
        path: &str,
        query: &str,
        headers: &Headers,
        body: &[u8],
        now: u64,
    ) -> Result<Verified, AuthError> {
        let secret = SecretKey::new(SECRET.into()).unwrap();
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let method = if query.is_empty() { "POST" } else { "GET" };
        let parts = RequestParts { method, path, query, headers: &headers, body };
        verifier.verify(&parts, now, |id, token| (id.starts_with("AKIDEXAMPLE") && token.is_none()).then_some(&secret))
    }

    fn header(name: &'static str, value: &str) -> (&'static str, Vec<u8>) {
        (name, value.as_bytes().to_vec())
    }

    fn scope(stamp: &str, scope: &str, signed: &str, signature: &str) -> (&'static str, Vec<u8>) {
        let date = &stamp[..8];
        let (id, scope) = scope.split_once('@').unwrap();
        let text = format!(
            "{ALGORITHM} Credential={id}/{date}/{scope}/aws4_request, SignedHeaders={signed}, Signature={signature}"
        );
        header("authorization", &text)
    }

    #[test]
    fn the_published_examples_verify() {
        let now = 1_440_938_160_000_000;
        let iam = vec![
            header("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            header("host", "iam.amazonaws.com"),
            header("x-amz-date", "20150830T123600Z"),
            scope(
                "20150830",
                "AKIDEXAMPLE@us-east-1/iam",
                "content-type;host;x-amz-date",
                "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            ),
        ];
        let verifier = Verifier::new(["us-east-1"], &["iam", "service"]);
        let verified = judge(&verifier, "/", "Action=ListUsers&Version=2010-05-08", &iam, b"", now).unwrap();
        assert_eq!(verified.access_key_id, "AKIDEXAMPLE");
        // The order of the query does not matter, its content does.
        assert!(judge(&verifier, "/", "Version=2010-05-08&Action=ListUsers", &iam, b"", now).is_ok());
        assert!(judge(&verifier, "/", "Action=ListRoles&Version=2010-05-08", &iam, b"", now).is_err());

        let vanilla = vec![
            header("host", "example.amazonaws.com"),
            header("x-amz-date", "20150830T123600Z"),
            scope(
                "20150830",
                "AKIDEXAMPLE@us-east-1/service",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
        ];
        assert!(judge(&verifier, "/", "&", &vanilla, b"", now).is_ok());
    }

    #[test]
    fn what_botocore_signs_verifies() {
        let verifier = Verifier::new(["eu-central-1"], &["kms", "sts"]);
        let json = vec![
            header("content-type", "application/x-amz-json-1.1"),
            header("host", "127.0.0.1:8443"),
            header("user-agent", "Boto3/1.43"),
            header("x-amz-date", "20260105T120000Z"),
            header("x-amz-target", "TrentService.Decrypt"),
            scope(
                "20260105",
                "AKIDEXAMPLE12345@eu-central-1/kms",
                "content-type;host;x-amz-date;x-amz-target",
                "f848d706dd085719389ddd6ae882d0da75eb65630ea59fe65e7cb69579709813",
            ),
        ];
        let verified = judge(&verifier, "/", "", &json, br#"{"CiphertextBlob":"AAAA"}"#, NOON).unwrap();
        assert_eq!((verified.service.as_str(), verified.region.as_str()), ("kms", "eu-central-1"));
        assert!(verified.is_signed("x-amz-target") && !verified.is_signed("user-agent"));
        assert!(judge(&verifier, "/", "", &json, br#"{"CiphertextBlob":"AAAB"}"#, NOON).is_err());

        let form = vec![
            header("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            header("host", "127.0.0.1:8443"),
            header("x-amz-date", "20260105T120000Z"),
            scope(
                "20260105",
                "AKIDEXAMPLE12345@eu-central-1/sts",
                "content-type;host;x-amz-date",
                "c2ff0e0e6f0c4ed644ed95cc661997b5c8047546b3a2b626156e278982dd258e",
            ),
        ];
        let verified = judge(&verifier, "/", "", &form, b"Action=GetCallerIdentity&Version=2011-06-15", NOON).unwrap();
        assert_eq!(verified.service, "sts");

        let odd = vec![
            header("host", "kms.example.com"),
            header("x-amz-date", "20260105T120000Z"),
            header("x-multi", "  a   b  "),
            scope(
                "20260105",
                "AKIDEXAMPLE12345@eu-central-1/kms",
                "host;x-amz-date;x-multi",
                "2fcdfabfe0f7845a71ad1e91039c05fb3114263449fdfed58172ede8b4dc2bb3",
            ),
        ];
        judge(&verifier, "/a%20b/../c%2Fd/", "b=2&a=x%20y&a=~", &odd, b"", NOON).unwrap();
    }

    fn signed(region: &str, service: &str, extra: &Headers, body: &[u8]) -> Headers {
        let mut headers = vec![header("host", "localhost:1"), header("x-amz-target", "TrentService.ListKeys")];
        headers.extend(extra.iter().cloned());
        let view: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &view, body };
        let added = sign(&credentials(), &parts, region, service, NOON);
        headers.extend(added.into_iter().map(|(name, value)| (name, value.into_bytes())));
        headers
    }

    #[test]
    fn each_fault_earns_its_error() {
        let verifier = Verifier::new(["eu-central-1"], &["kms"]);
        let good = signed("eu-central-1", "kms", &vec![], b"{}");
        let judge = |headers: &Headers, now| judge(&verifier, "/", "", headers, b"{}", now).map_err(|e| e.exception());
        assert!(judge(&good, NOON).is_ok());
        assert!(judge(&good, NOON + 300_999_999).is_ok());
        assert_eq!(judge(&good, NOON + 301_000_000), Err("InvalidSignatureException"));
        assert!(judge(&good, NOON - 300_000_000).is_ok());
        assert_eq!(judge(&good, NOON - 301_000_000), Err("InvalidSignatureException"));
        assert_eq!(judge(&signed("us-east-1", "kms", &vec![], b"{}"), NOON), Err("InvalidSignatureException"));
        assert_eq!(judge(&signed("eu-central-1", "s3", &vec![], b"{}"), NOON), Err("InvalidSignatureException"));

        let without = |name: &str| good.iter().filter(|(other, _)| *other != name).cloned().collect::<Headers>();
        assert_eq!(judge(&without("authorization"), NOON), Err("MissingAuthenticationTokenException"));
        assert_eq!(judge(&without("x-amz-date"), NOON), Err("IncompleteSignatureException"));
        assert_eq!(judge(&without("host"), NOON), Err("InvalidSignatureException"));
        assert_eq!(judge(&without("x-amz-target"), NOON), Err("InvalidSignatureException"));

        let with = |extra: (&'static str, Vec<u8>)| good.iter().cloned().chain([extra]).collect::<Headers>();
        assert_eq!(
            judge(&with(header("x-amz-target", "TrentService.DisableKey")), NOON),
            Err("IncompleteSignatureException")
        );
        assert_eq!(judge(&with(header("x-keytrail-action-id", "a")), NOON), Err("InvalidSignatureException"));
        assert_eq!(judge(&with(header("x-amz-security-token", "a")), NOON), Err("InvalidSignatureException"));
        assert!(judge(&with(header("x-other", "unsigned")), NOON).is_ok());
        let token = signed("eu-central-1", "kms", &vec![header("x-amz-security-token", "a")], b"{}");
        assert_eq!(judge(&token, NOON), Err("UnrecognizedClientException"));

        let edited = |from: &str, to: &str| {
            let mut headers = good.clone();
            for (name, value) in &mut headers {
                if *name == "authorization" {
                    *value = String::from_utf8(value.clone()).unwrap().replace(from, to).into_bytes();
                }
            }
            headers
        };
        for (from, to, want) in [
            ("AKIDEXAMPLE12345", "AKIANOBODY000000", "UnrecognizedClientException"),
            ("aws4_request", "aws5_request", "InvalidSignatureException"),
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512", "IncompleteSignatureException"),
            ("Signature=", "Signature=0", "InvalidSignatureException"),
            (", Signature=", ", Nothing=", "IncompleteSignatureException"),
            ("SignedHeaders=host;", "SignedHeaders=", "InvalidSignatureException"),
            ("SignedHeaders=host;", "SignedHeaders=zz;host;", "IncompleteSignatureException"),
            ("/20260105/", "/20260104/", "InvalidSignatureException"),
            ("/kms/", "/", "IncompleteSignatureException"),
            ("/kms/", "/k<s/", "IncompleteSignatureException"),
        ] {
            assert_eq!(judge(&edited(from, to), NOON), Err(want), "{from} -> {to}");
        }
    }

    #[test]
    fn a_replaced_secret_is_never_served_from_the_cache() {
        let verifier = Verifier::new(["eu-central-1"], &["kms"]);
        let headers = signed("eu-central-1", "kms", &vec![], b"{}");
        let view: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &view, body: b"{}" };
        let old = SecretKey::new(SECRET.into()).unwrap();
        assert!(verifier.verify(&parts, NOON, |_, _| Some(&old)).is_ok());
        assert!(verifier.verify(&parts, NOON, |_, _| Some(&old)).is_ok());
        let new = SecretKey::generate().unwrap();
        assert!(verifier.verify(&parts, NOON, |_, _| Some(&new)).is_err());
        assert!(verifier.verify(&parts, NOON, |_, _| None).is_err());
    }

    proptest! {
        #[test]
        fn any_authorization_header_gets_an_answer(text in "(AWS4-HMAC-SHA256 )?([A-Za-z]{1,14}=[ -~]{0,40},? ?){0,5}") {
            let verifier = Verifier::new(["eu-central-1"], &["kms"]);
            let headers = vec![header("host", "h"), header("x-amz-date", "20260105T120000Z"), header("authorization", &text)];
            prop_assert!(judge(&verifier, "/", "", &headers, b"", NOON).is_err());
        }

        #[test]
        fn any_date_gets_an_answer(text in "[0-9TZ+ -]{0,18}") {
            if let Some(secs) = parse_amz_date(&text) {
                prop_assert_eq!(amz_date(secs * 1_000_000), text);
            }
        }

        #[test]
        fn what_we_sign_we_verify_and_a_changed_byte_we_do_not(
            value in "[ -~]{1,20}", body in proptest::collection::vec(any::<u8>(), 1..60), at in any::<usize>()
        ) {
            let verifier = Verifier::new(["eu-central-1"], &["kms"]);
            let headers = signed("eu-central-1", "kms", &vec![header("x-free", &value)], &body);
            prop_assert!(judge(&verifier, "/", "", &headers, &body, NOON).is_ok());
            let mut changed = body.clone();
            let at = at % changed.len();
            changed[at] ^= 1;
            prop_assert!(judge(&verifier, "/", "", &headers, &changed, NOON).is_err());
            prop_assert!(judge(&verifier, "/x", "", &headers, &body, NOON).is_err());
        }
    }
}
