//! The canonical request: one byte string for all the ways of writing the same request.
//!
//! Pure and total: any bytes in, some bytes out; whether they mean anything is decided by the signature. The path is
//! normalised and encoded once more on top of the wire's encoding, as every AWS service except S3 has it; S3 takes it as
//! it is on the wire, because the names of its objects are paths.

use aws_lc_rs::digest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::RequestParts;

/// All but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Writes the canonical request over these headers, named in lower case in the order in which they are signed.
pub(super) fn request(parts: &RequestParts<'_>, signed: &[&str]) -> Vec<u8> {
    with_path(&path(parts.path), parts, signed)
}

/// [`request`] for S3.
pub(super) fn s3_request(parts: &RequestParts<'_>, signed: &[&str]) -> Vec<u8> {
    with_path(parts.path, parts, signed)
}

fn with_path(path: &str, parts: &RequestParts<'_>, signed: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(parts.method.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(path.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(query(parts.query).as_bytes());
    out.push(b'\n');
    for name in signed {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        for (index, value) in parts.values(name).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_trimmed(&mut out, value);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(signed.join(";").as_bytes());
    out.push(b'\n');
    out.extend_from_slice(hex::encode(digest::digest(&digest::SHA256, parts.body)).as_bytes());
    out
}

/// Appends a header value without outer blanks, each inner run of spaces as one. Tabs inside stay: AWS's manual speaks of
/// "sequential spaces" there and of "whitespace" at the ends only.
fn push_trimmed(out: &mut Vec<u8>, value: &[u8]) {
    let words = value.trim_ascii().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    for (index, word) in words.enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

/// Resolves `.`, `..` and empty segments, then percent-encodes each segment.
fn path(raw: &str) -> String {
    if raw.is_empty() || raw == "/" {
        return "/".into();
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(raw.len() + 8);
    for segment in &segments {
        out.push('/');
        out.extend(percent_encode(segment.as_bytes(), ENCODED));
    }
    // A last segment that is a dot or two names a folder: RFC 3986, section 5.2.4.
    if out.is_empty() || ["/", "/.", "/.."].iter().any(|end| raw.ends_with(end)) {
        out.push('/');
    }
    out
}

/// Decodes each name and value, encodes them strictly and sorts the pairs.
fn query(raw: &str) -> String {
    if raw.is_empty() {
        return String::new();
    }
    let mut pairs: Vec<(String, String)> = raw
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (recode(name), recode(value))
        })
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn recode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let decoded: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
    percent_encode(&decoded, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        for (raw, want) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("/a//b/", "/a/b/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/b.", "/a/b."),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%2520b"),
            ("/\u{1234}", "/%E1%88%B4"),
        ] {
            assert_eq!(path(raw), want, "{raw}");
        }
    }

    #[test]
    fn queries_are_sorted_and_recoded() {
        assert_eq!(query("b=2&a=%7E%20x+y&a=&c"), "a=&a=~%20x%20y&b=2&c=");
        assert_eq!(query("Version=2010-05-08&Action=ListUsers"), "Action=ListUsers&Version=2010-05-08");
    }

    #[test]
    fn repeated_headers_are_joined_and_trimmed() {
        let parts = RequestParts {
            method: "GET",
            path: "/",
            query: "",
            headers: &[("my-header", b"  a   b  "), ("other", b"z"), ("my-header", b"\tc\t  d ")],
            body: b"",
        };
        let text = String::from_utf8_lossy(&request(&parts, &["my-header"])).into_owned();
        assert!(text.contains("\nmy-header:a b,c\t d\n"), "{text}");
        assert!(text.ends_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    }
}
