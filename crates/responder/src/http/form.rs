//! What a page's form sends: `application/x-www-form-urlencoded`, read strictly.

/// Name and value of each field in order; nothing where something is not as a browser writes it.
pub(super) fn read(body: &[u8]) -> Option<Vec<(String, String)>> {
    if body.is_empty() {
        return Some(Vec::new());
    }
    let fields = body.split(|byte| *byte == b'&').map(|field| {
        let at = field.iter().position(|byte| *byte == b'=')?;
        let (name, value) = field.split_at(at);
        Some((decoded(name)?, decoded(value.get(1..)?)?))
    });
    fields.collect()
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            plain => *plain,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(b"").unwrap(), []);
        assert_eq!(read(b"text=a+b%26%3D%2B%c3%bc&x=").unwrap(), [one("text", "a b&=+\u{fc}"), one("x", "")]);
        for bad in [&b"text"[..], b"&", b"a=1&", b"a=%", b"a=%2", b"a=%zz", b"a=%ff", b"a=\xff", b"a=%+1"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
