//! A pack as `aws cloudtrail validate-logs` wants to find it: a trail for each account and region, and a bucket.
//!
//! Just the calls that the command makes (DescribeTrails, ListPublicKeys; GetBucketLocation, ListObjects of version 1,
//! GetObject), free of HTTP. Nothing is checked here: that is the command's job, and a pack that was tampered with is served
//! as it is. Names are looked up in a listing made at the start, so no request leads out of the folder; nobody has to
//! prove anything, so it is for loopback addresses and for requests that name one as their host.

use super::bag::files;
use super::digest::{BUCKET, OBJECTS};
use super::manifest::Manifest;
use super::{IoError, PAYLOAD, io};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// Prefix of `X-Amz-Target` for CloudTrail's calls.
const CLOUDTRAIL: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";
/// Keys in one page of a listing, as at S3.
const PAGE_KEYS: usize = 1_000;
/// Largest object served; the exporter's are some 64 MiB before gzip.
const OBJECT_BYTES_MAX: u64 = 256 << 20;
/// Largest manifest read.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Largest signature file read.
const SIGNATURE_BYTES_MAX: u64 = 16 * 1024;
/// Ends the name of the file beside a digest.
const SIGNATURE: &str = ".signature";

/// Why a pack cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Files.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Not a pack's manifest.
    #[error("manifest.json cannot be read")]
    Manifest(#[source] serde_json::Error),
}

/// A trail of the pack, with what the command is to be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trail {
    /// Its ARN.
    pub arn: String,
    /// Region of its events.
    pub region: String,
    /// Begin of the first digest's hour, RFC 3339.
    pub from: String,
    /// End of the last one's.
    pub to: String,
}

/// A pack, ready to be asked.
#[derive(Debug)]
pub struct Bucket {
    /// Files below `cloudtrail/` but signatures, by object name.
    objects: BTreeMap<String, PathBuf>,
    /// Signature files, by the object that they belong to.
    signatures: BTreeMap<String, PathBuf>,
    trails: Vec<Trail>,
    public_keys: Vec<serde_json::Value>,
}

/// A request, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Upper-case method.
    pub method: &'a str,
    /// Host header.
    pub host: &'a str,
    /// Path, still percent-encoded.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: &'a str,
    /// X-Amz-Target.
    pub target: &'a str,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub content_type: &'static str,
    /// Signature of a digest, for `x-amz-meta-signature`.
    pub signature: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Bucket {
    /// Lists the pack in `folder`.
    pub fn open(folder: &Path) -> Result<Self, ServeError> {
        let root = folder.join(PAYLOAD);
        let path = root.join("manifest.json");
        let manifest: Manifest =
            serde_json::from_slice(&read(&path, MANIFEST_BYTES_MAX)?).map_err(ServeError::Manifest)?;
        let (mut objects, mut signatures) = (BTreeMap::new(), BTreeMap::new());
        for (name, path) in files(&root)? {
            let Some(object) = name.strip_prefix(OBJECTS) else { continue };
            match object.strip_suffix(SIGNATURE) {
                Some(digest) => signatures.insert(digest.to_owned(), path),
                None => objects.insert(object.to_owned(), path),
            };
        }
        let (from, to) = (manifest.period.from.clone(), manifest.period.to.clone());
        let validity = manifest.period.micros().map_or((0, 0), |(from, to)| (from / 1_000_000, to / 1_000_000));
        let key = |key: &super::manifest::DigestKeyEntry| {
            // Of the range, which reaches over the period: nothing is said about how long the key was in use.
            json!({
                "Fingerprint": key.fingerprint, "Value": key.public_key, "ValidityStartTime": validity.0,
                "ValidityEndTime": validity.1,
            })
        };
        let public_keys = manifest.digest_keys.iter().map(key).collect();
        let digests = manifest.logs.iter().flat_map(|log| &log.digests);
        let found: BTreeSet<(String, String)> = digests.filter_map(|name| trail_of(name)).collect();
        let trails = found.into_iter().map(|(arn, region)| Trail { arn, region, from: from.clone(), to: to.clone() });
        Ok(Self { objects, signatures, trails: trails.collect(), public_keys })
    }

    /// The trails.
    pub fn trails(&self) -> &[Trail] {
        &self.trails
    }

    /// Answers one request.
    pub fn answer(&self, request: &Request<'_>) -> Reply {
        let name = request.host.rsplit_once(':').map_or(request.host, |(name, _)| name);
        if !matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
            // A page in a browser whose name was made to point here.
            return failure(403, "AccessDenied", "The host of the request is not a loopback address.");
        }
        match (request.method, request.target.strip_prefix(CLOUDTRAIL)) {
            ("POST", Some("DescribeTrails")) => self.describe_trails(),
            ("POST", Some("ListPublicKeys")) => ok_json(&json!({"PublicKeyList": self.public_keys})),
            ("POST", Some(_)) => Reply {
                status: 400,
                body: json!({"__type": "UnsupportedOperationException"}).to_string().into_bytes(),
                ..ok_json(&json!({}))
            },
            ("GET", _) => self.get(request),
            _ => failure(405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
        }
    }

    fn describe_trails(&self) -> Reply {
        let trail = |trail: &Trail| {
            json!({
                "Name": trail.arn.rsplit('/').next(), "TrailARN": trail.arn, "S3BucketName": BUCKET,
                "HomeRegion": trail.region, "IsOrganizationTrail": false, "IsMultiRegionTrail": false,
                "LogFileValidationEnabled": true,
            })
        };
        ok_json(&json!({"trailList": self.trails.iter().map(trail).collect::<Vec<_>>()}))
    }

    fn get(&self, request: &Request<'_>) -> Reply {
        let path = request.path.strip_prefix('/').unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != BUCKET {
            return failure(404, "NoSuchBucket", "The specified bucket does not exist");
        }
        let key = percent_decode_str(key).decode_utf8_lossy();
        let query = Query(request.query);
        match key.as_ref() {
            "" if query.get("location").is_some() => {
                xml(200, "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>".to_owned())
            }
            "" => self.list(&query),
            key => self.object(key),
        }
    }

    fn list(&self, query: &Query<'_>) -> Reply {
        let (prefix, marker) = (query.get("prefix").unwrap_or_default(), query.get("marker").unwrap_or_default());
        let after = self.objects.range::<str, _>((Bound::Excluded(marker.as_str()), Bound::Unbounded));
        let mut keys: Vec<&String> =
            after.map(|(key, _)| key).filter(|key| key.starts_with(&prefix)).take(PAGE_KEYS + 1).collect();
        let truncated = keys.len() > PAGE_KEYS;
        keys.truncate(PAGE_KEYS);
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let entries: String =
            keys.iter().map(|key| format!("<Contents><Key>{}</Key><Size>0</Size></Contents>", encoded(key))).collect();
        xml(
            200,
            format!(
                "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{BUCKET}</Name><Prefix>{}</Prefix>\
                 <Marker>{}</Marker><MaxKeys>{PAGE_KEYS}</MaxKeys><EncodingType>url</EncodingType>\
                 <IsTruncated>{truncated}</IsTruncated>{entries}</ListBucketResult>",
                encoded(&prefix),
                encoded(&marker),
            ),
        )
    }

    fn object(&self, key: &str) -> Reply {
        let Some(path) = self.objects.get(key) else {
            return failure(404, "NoSuchKey", "The specified key does not exist.");
        };
        let signature = self.signatures.get(key).map(|path| read(path, SIGNATURE_BYTES_MAX)).transpose();
        match (read(path, OBJECT_BYTES_MAX), signature) {
            (Ok(body), Ok(signature)) => {
                // A header holds no line ends; what is no text of that kind is no signature either.
                let signature = signature.and_then(|bytes| String::from_utf8(bytes).ok());
                let signature = signature.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
                Reply { status: 200, content_type: "application/octet-stream", signature, body }
            }
            // It was there when the pack was listed.
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, key, "object cannot be read");
                failure(500, "InternalError", "The object cannot be read.")
            }
        }
    }
}

/// ARN and region of the trail that a digest belongs to, from its path below the payload folder.
fn trail_of(digest: &str) -> Option<(String, String)> {
    let mut parts = digest.strip_prefix(OBJECTS)?.strip_prefix("AWSLogs/")?.split('/');
    let (account, kind, region) = (parts.next()?, parts.next()?, parts.next()?);
    let rest = parts.next_back()?.strip_prefix(&format!("{account}_CloudTrail-Digest_{region}_"))?;
    let name = rest.split('_').next().filter(|_| kind == "CloudTrail-Digest")?;
    Some((format!("arn:aws:cloudtrail:{region}:{account}:trail/{name}"), region.to_owned()))
}

/// Pairs of a query.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.into_iter().find(|(key, _)| *key == name)?.1.replace('+', " ");
        Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
    }
}

fn ok_json(value: &serde_json::Value) -> Reply {
    let body = value.to_string().into_bytes();
    Reply { status: 200, content_type: "application/x-amz-json-1.1", signature: None, body }
}

fn xml(status: u16, text: String) -> Reply {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}").into_bytes();
    Reply { status, content_type: "application/xml", signature: None, body }
}

fn failure(status: u16, code: &str, message: &str) -> Reply {
    xml(status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, IoError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io("open", path))?;
    if fs::symlink_metadata(path).map_err(io("look at", path))?.len() > bytes_max {
        return Err(io("take", path)(std::io::ErrorKind::FileTooLarge.into()));
    }
    file.take(bytes_max).read_to_end(&mut bytes).map_err(io("read", path))?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DIGEST: &str = "AWSLogs/123456789012/CloudTrail-Digest/us-east-1/2026/01/05/123456789012_CloudTrail-Digest_us-east-1_keytrail-\
                          0123abcd_us-east-1_20260105T130000Z.json.gz";

    fn bucket(folder: &Path, objects: usize) -> Bucket {
        let mut bucket = Bucket {
            objects: BTreeMap::new(),
            signatures: BTreeMap::new(),
            trails: Vec::new(),
            public_keys: Vec::new(),
        };
        for number in 0..objects {
            let path = folder.join(format!("object-{number}"));
            fs::write(&path, format!("body {number}")).unwrap();
            bucket.objects.insert(format!("AWSLogs/o{number:05}"), path);
        }
        bucket
    }

    fn get(bucket: &Bucket, path: &str, query: &str) -> (u16, String) {
        let request = Request { method: "GET", host: "127.0.0.1:1", path, query, target: "" };
        let reply = bucket.answer(&request);
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    #[test]
    fn a_digest_s_name_tells_its_trail() {
        let (arn, region) = trail_of(&format!("cloudtrail/{DIGEST}")).unwrap();
        assert_eq!(
            (arn.as_str(), region.as_str()),
            ("arn:aws:cloudtrail:us-east-1:123456789012:trail/keytrail-0123abcd", "us-east-1")
        );
        for wrong in
            ["", "cloudtrail/AWSLogs/1/CloudTrail/r/x", "cloudtrail/AWSLogs/1/CloudTrail-Digest/r", "x/AWSLogs"]
        {
            assert_eq!(trail_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_listing_goes_on_behind_its_marker_and_stays_within_its_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket(folder.path(), PAGE_KEYS + 5);
        let (status, page) = get(&bucket, "/keytrail-evidence", "prefix=AWSLogs%2F&encoding-type=url");
        assert_eq!((status, page.matches("<Key>").count()), (200, PAGE_KEYS));
        assert!(page.contains("<IsTruncated>true</IsTruncated>") && page.contains("<Key>AWSLogs%2Fo00000</Key>"));
        let (_, rest) = get(&bucket, "/keytrail-evidence/", "marker=AWSLogs%2Fo00999&prefix=AWSLogs%2F");
        assert_eq!(rest.matches("<Key>").count(), 5);
        assert!(rest.contains("<IsTruncated>false</IsTruncated>"));
        let (_, none) = get(&bucket, "/keytrail-evidence", "prefix=%3Cx%3E");
        assert!(!none.contains("<x>") && !none.contains("<Key>"));
        assert!(get(&bucket, "/keytrail-evidence", "location").1.contains("LocationConstraint"));
    }

    #[test]
    fn only_what_was_listed_is_served_and_only_on_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket(folder.path(), 1);
        assert_eq!(get(&bucket, "/keytrail-evidence/AWSLogs/o00000", ""), (200, "body 0".to_owned()));
        for path in
            ["/keytrail-evidence/../object-0", "/keytrail-evidence/%2e%2e/object-0", "/keytrail-evidence/AWSLogs/x"]
        {
            let (status, body) = get(&bucket, path, "");
            assert_eq!((status, body.contains("NoSuchKey")), (404, true), "{path}");
        }
        assert_eq!(get(&bucket, "/other/AWSLogs/o00000", "").0, 404);
        let mut request = Request {
            method: "GET",
            host: "evil.example",
            path: "/keytrail-evidence/AWSLogs/o00000",
            query: "",
            target: "",
        };
        assert_eq!(bucket.answer(&request).status, 403);
        request = Request { method: "PUT", host: "localhost:9", ..request };
        assert_eq!(bucket.answer(&request).status, 405);
        request = Request {
            method: "POST",
            target: "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.CreateTrail",
            ..request
        };
        assert_eq!(bucket.answer(&request).status, 400);
    }
}
