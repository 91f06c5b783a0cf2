//! A CloudTrail file into its records, as they stand there: nothing is decoded, so nothing can be changed or lost.
//!
//! Walks the outer object (or several, one after the other: files that were joined) and gives the range of each element
//! of its `Records`. Elements are found by brackets and quotes alone. So one that is no JSON inside is still an element,
//! which a parser of the whole file could not say; a file whose brackets do not close is refused as a whole.

use std::ops::Range;

/// Deepest nesting walked into; each level costs a byte.
const DEPTH_MAX: usize = 100_000;

/// Why a file has no records to give.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SplitError {
    /// The file ends in the middle.
    #[error("ends in the middle of its JSON")]
    Torn,
    /// Something else stands where JSON needs another character.
    #[error("is no JSON at byte {0}")]
    Syntax(usize),
    /// Brackets within brackets within brackets.
    #[error("is nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// JSON, but not CloudTrail's.
    #[error("has no list of Records")]
    NoRecords,
}

/// Where the elements of `Records` are in a file.
pub(super) fn records(file: &[u8]) -> Result<Vec<Range<usize>>, SplitError> {
    let mut scan = Scan { bytes: file, at: 0 };
    let mut records = Vec::new();
    let mut found = false;
    scan.space();
    while scan.at < file.len() {
        found |= scan.document(&mut records)?;
        scan.space();
    }
    if found { Ok(records) } else { Err(SplitError::NoRecords) }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Result<u8, SplitError> {
        self.bytes.get(self.at).copied().ok_or(SplitError::Torn)
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), SplitError> {
        self.space();
        if self.peek()? != wanted {
            return Err(SplitError::Syntax(self.at));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// True when `end` came and was passed; otherwise a comma was.
    fn is_over(&mut self, end: u8) -> Result<bool, SplitError> {
        self.space();
        let byte = self.peek()?;
        if byte != end && byte != b',' {
            return Err(SplitError::Syntax(self.at));
        }
        self.at += 1;
        self.space();
        Ok(byte == end)
    }

    /// One object; whether it has a list of records.
    fn document(&mut self, records: &mut Vec<Range<usize>>) -> Result<bool, SplitError> {
        if self.peek()? != b'{' {
            return Err(SplitError::NoRecords);
        }
        self.expect(b'{')?;
        let mut found = false;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(found);
        }
        loop {
            let name = self.string()?;
            let is_records = self.bytes.get(name) == Some(b"\"Records\"");
            self.expect(b':')?;
            if is_records && self.peek()? == b'[' {
                found = true;
                self.elements(records)?;
            } else {
                self.value()?;
            }
            if self.is_over(b'}')? {
                return Ok(found);
            }
        }
    }

    fn elements(&mut self, records: &mut Vec<Range<usize>>) -> Result<(), SplitError> {
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            records.push(self.value()?);
            if self.is_over(b']')? {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Result<Range<usize>, SplitError> {
        let start = self.at;
        if self.peek()? != b'"' {
            return Err(SplitError::Syntax(start));
        }
        loop {
            self.at += 1;
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.at += 1;
        Ok(start..self.at)
    }

    fn value(&mut self) -> Result<Range<usize>, SplitError> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => self.brackets(),
            b'}' | b']' | b',' | b':' => Err(SplitError::Syntax(self.at)),
            _ => {
                let start = self.at;
                while !matches!(self.peek()?, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n') {
                    self.at += 1;
                }
                Ok(start..self.at)
            }
        }
    }

    fn brackets(&mut self) -> Result<Range<usize>, SplitError> {
        let start = self.at;
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                end @ (b'}' | b']') if open.pop() != Some(end) => return Err(SplitError::Syntax(self.at)),
                _ => {}
            }
            self.at += 1;
            if open.is_empty() {
                return Ok(start..self.at);
            }
            if open.len() > DEPTH_MAX {
                return Err(SplitError::Depth);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn split(file: &str) -> Result<Vec<&str>, SplitError> {
        Ok(records(file.as_bytes())?.into_iter().map(|range| &file[range]).collect())
    }

    #[test]
    fn records_come_as_they_stand() {
        let file = "{\"a\": {\"Records\": [9]}, \"Records\" : [ {\"x\": \"]}\\\"\"} ,\n12,null, \"s\", [1,{}], {} ] , \"z\":1}\n";
        assert_eq!(split(file).unwrap(), ["{\"x\": \"]}\\\"\"}", "12", "null", "\"s\"", "[1,{}]", "{}"]);
        assert_eq!(split("{\"Records\":[]}").unwrap(), Vec::<&str>::new());
        assert_eq!(split("{\"Records\":[1]}{\"Records\":[2,3]}\n{}").unwrap(), ["1", "2", "3"], "files joined");
        assert_eq!(split("{\"Records\":[{\"a\":nope},{\"b\":1 2}]}").unwrap(), ["{\"a\":nope}", "{\"b\":1 2}"]);
    }

    #[test]
    fn what_is_no_cloudtrail_file_is_refused() {
        for (file, error) in [
            ("", SplitError::NoRecords),
            ("{}", SplitError::NoRecords),
            ("[1]", SplitError::NoRecords),
            ("plain text", SplitError::NoRecords),
            ("{\"Records\":null}", SplitError::NoRecords),
            ("{\"Records\":[1", SplitError::Torn),
            ("{\"Records\":[{\"a\":\"", SplitError::Torn),
            ("{\"Records\":[1]", SplitError::Torn),
            ("{\"Records\":[1,]}", SplitError::Syntax(14)),
            ("{\"Records\":[{]}]}", SplitError::Syntax(13)),
            ("{\"Records\":[1]} x", SplitError::NoRecords),
            ("{Records:[1]}", SplitError::Syntax(1)),
        ] {
            assert_eq!(split(file), Err(error), "{file}");
        }
        assert_eq!(split(&format!("{{\"Records\":[{}", "[".repeat(DEPTH_MAX + 1))), Err(SplitError::Depth));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".*", inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_split_where_a_parser_would(wanted in prop::collection::vec(json(), 0..5), pretty: bool) {
            let file = serde_json::json!({ "before": { "Records": [1] }, "Records": wanted });
            let text = if pretty { serde_json::to_string_pretty(&file) } else { serde_json::to_string(&file) }.unwrap();
            let found: Vec<Value> =
                split(&text).unwrap().into_iter().map(|record| serde_json::from_str(record).unwrap()).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut file = b"{\"Records\":[".to_vec();
            file.extend(&bytes);
            for range in records(&file).into_iter().flatten() {
                prop_assert!(range.start < range.end && range.end <= file.len());
            }
        }
    }
}
