//! The trust policy: which witnesses must have cosigned a checkpoint (C2SP tlog-policy).
//!
//! One text file of `log`, `witness`, `group` and `quorum` lines, shared by the node that asks the witnesses and by
//! whoever verifies. Names are opaque octets. Keys are Ed25519: a line with another kind of key refuses the file, since a
//! quorum that cannot be checked must not look like one.

use super::checkpoint::{Checkpoint, NoteError, VerifyKey};
use super::cosignature::{Cosigner, Note};
use super::transition::LogKeys;
use std::collections::HashMap;

/// Longest file read: hundreds of witnesses with their addresses.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// Logs, witnesses and groups of one file, together.
const ENTRIES_MAX: usize = 512;

/// A parsed policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    logs: Vec<VerifyKey>,
    witnesses: Vec<Witness>,
    quorum: Rule,
}

/// A witness of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the file, for messages.
    pub name: String,
    /// Its key.
    pub key: Cosigner,
    /// Its submission prefix, without a slash at the end; whoever only verifies needs none.
    pub url: Option<String>,
}

/// Who must have cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Nobody.
    None,
    /// The witness at this index.
    Witness(usize),
    /// At least so many of these.
    Group(usize, Vec<Rule>),
}

/// What a policy says of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The checkpoint, signed by a log of the policy or the one expected.
    pub checkpoint: Checkpoint,
    /// Unix seconds of each witness's cosignature, in the policy's order.
    pub cosigned_s: Vec<Option<u64>>,
    /// Whether the quorum has cosigned.
    pub satisfied: bool,
}

/// Why a policy file is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyFileError {
    /// One line.
    #[error("line {line} of the trust policy: {found}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        found: String,
    },
    /// The whole file.
    #[error("trust policy {0}")]
    File(&'static str),
}

impl TrustPolicy {
    /// Reads a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyFileError> {
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(PolicyFileError::File("is longer than 256 KiB"));
        }
        let mut reading = Reading::default();
        for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            reading.enter(text).map_err(|found| PolicyFileError::Line { line, found })?;
        }
        let quorum = reading.quorum.ok_or(PolicyFileError::File("has no quorum line"))?;
        Ok(Self { logs: reading.logs, witnesses: reading.witnesses, quorum })
    }

    /// The logs it is about; none when it leaves that to its user.
    pub fn logs(&self) -> &[VerifyKey] {
        &self.logs
    }

    /// The witnesses, in the file's order.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether it wants no cosignature at all.
    pub fn wants_none(&self) -> bool {
        self.quorum == Rule::None
    }

    /// Whether these witnesses, by index, are the quorum.
    pub fn is_quorum(&self, cosigned: impl Fn(usize) -> bool) -> bool {
        self.quorum.holds(&cosigned)
    }

    /// Judges a signed note. The log's keys are `log` if given, one of which the policy must know when it names logs at
    /// all; otherwise any log of the policy.
    pub fn judge(&self, note: &str, log: Option<&LogKeys>) -> Result<Judged, NoteError> {
        let checkpoint = self.log_of(note, log)?;
        let parsed = Note::parse(note)?;
        let times = self.witnesses.iter().map(|witness| parsed.cosigned_by(&witness.key));
        let cosigned_s = times.collect::<Result<Vec<_>, _>>()?;
        let satisfied = self.is_quorum(|index| cosigned_s.get(index).is_some_and(Option::is_some));
        Ok(Judged { checkpoint, cosigned_s, satisfied })
    }

    fn log_of(&self, note: &str, log: Option<&LogKeys>) -> Result<Checkpoint, NoteError> {
        match log {
            Some(keys) if self.logs.is_empty() || keys.all().iter().any(|key| self.logs.contains(key)) => {
                keys.verify(note)
            }
            Some(keys) => {
                Err(NoteError::Unsigned(format!("of the policy: it does not name {}", keys.current().name())))
            }
            None => {
                let mut failure = NoteError::Unsigned("of the policy".to_owned());
                for key in &self.logs {
                    match key.verify(note) {
                        Err(NoteError::Unsigned(_)) => {}
                        Err(error) => failure = error,
                        Ok(checkpoint) => return Ok(checkpoint),
                    }
                }
                Err(failure)
            }
        }
    }
}

impl Rule {
    fn holds(&self, cosigned: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::None => true,
            Self::Witness(index) => cosigned(*index),
            Self::Group(least, members) => members.iter().filter(|rule| rule.holds(cosigned)).count() >= *least,
        }
    }
}

/// A file as far as it was read.
#[derive(Default)]
struct Reading {
    logs: Vec<VerifyKey>,
    witnesses: Vec<Witness>,
    /// What a name stands for, and whether a group has it as a member already.
    names: HashMap<Vec<u8>, (Rule, bool)>,
    quorum: Option<Rule>,
}

impl Reading {
    fn enter(&mut self, line: &[u8]) -> Result<(), String> {
        if line.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return Err("control character".to_owned());
        }
        let items: Vec<&[u8]> =
            line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|item| !item.is_empty()).collect();
        if self.logs.len() + self.names.len() > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} logs, witnesses and groups"));
        }
        match items.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", key] | [b"log", key, _] => self.log(key),
            [b"witness", name, key] => self.witness(name, key, None),
            [b"witness", name, key, url] => self.witness(name, key, Some(url)),
            [b"group", name, least, members @ ..] => self.group(name, least, members),
            [b"quorum", name] => self.decide(name),
            [first, ..] => Err(format!("{} line is malformed or unknown", String::from_utf8_lossy(first))),
        }
    }

    fn log(&mut self, key: &[u8]) -> Result<(), String> {
        let key: VerifyKey = parsed(key)?;
        if self.logs.iter().any(|known| known.public() == key.public()) {
            return Err("log is there already".to_owned());
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8], url: Option<&&[u8]>) -> Result<(), String> {
        let key: Cosigner = parsed(key)?;
        if self.witnesses.iter().any(|known| known.key.public() == key.public()) {
            return Err("witness is there already".to_owned());
        }
        let url = url.map(|url| text(url).map(|url| url.trim_end_matches('/').to_owned())).transpose()?;
        self.define(name, Rule::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name: String::from_utf8_lossy(name).into_owned(), key, url });
        Ok(())
    }

    fn group(&mut self, name: &[u8], least: &[u8], members: &[&[u8]]) -> Result<(), String> {
        let count = members.len();
        let least = match least {
            b"all" => count,
            b"any" => 1,
            number => text(number)?.parse().map_err(|_| "group wants all, any or a number".to_owned())?,
        };
        if !(1..=count).contains(&least) {
            return Err(format!("group wants {least} of {count} members"));
        }
        let mut rules = Vec::with_capacity(count);
        for member in members {
            match self.names.get_mut(*member) {
                Some((_, true)) => return Err(format!("{} is a member already", String::from_utf8_lossy(member))),
                Some((rule, taken)) => {
                    *taken = true;
                    rules.push(rule.clone());
                }
                None => return Err(format!("{} is not defined above", String::from_utf8_lossy(member))),
            }
        }
        self.define(name, Rule::Group(least, rules))
    }

    fn decide(&mut self, name: &[u8]) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("there is a quorum already".to_owned());
        }
        let rule = match (name, self.names.get(name)) {
            (b"none", _) => Rule::None,
            (_, Some((rule, _))) => rule.clone(),
            (_, None) => return Err(format!("{} is not defined above", String::from_utf8_lossy(name))),
        };
        self.quorum = Some(rule);
        Ok(())
    }

    fn define(&mut self, name: &[u8], rule: Rule) -> Result<(), String> {
        if name == b"none" || self.names.contains_key(name) {
            return Err(format!("{} is taken already", String::from_utf8_lossy(name)));
        }
        self.names.insert(name.to_owned(), (rule, false));
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

fn parsed<T: std::str::FromStr<Err = NoteError>>(key: &[u8]) -> Result<T, String> {
    text(key)?.parse().map_err(|error: NoteError| format!("{error}, or not one of Ed25519 for this line"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::checkpoint::SigningKey;
    use super::super::cosignature::CosigningKey;
    use super::super::tree::RootHash;
    use super::*;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    fn log() -> SigningKey {
        SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap()
    }

    fn witness(number: u8) -> CosigningKey {
        CosigningKey::from_seed(&format!("witness.example/{number}"), &[number; 32]).unwrap()
    }

    /// The specification's example: two of three X and one of three Y.
    fn example() -> String {
        let mut text = format!("# who must cosign\nlog {} https://log.example/\n\n", log().verify_key());
        for (name, number) in [("X1", 11), ("X2", 12), ("X3", 13), ("Y1", 21), ("Y2", 22), ("Y3", 23)] {
            text += &format!("witness {name}\t{} https://{name}.example/w/\n", witness(number).cosigner());
        }
        text + "group X-witnesses 2 X1 X2 X3\n  group Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\n\
                quorum X-and-Y\n"
    }

    fn note(witnesses: &[u8]) -> String {
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 42, root: RootHash([7; 32]) };
        let mut note = log().sign(&checkpoint).unwrap();
        for number in witnesses {
            note += &witness(*number).cosign(&checkpoint.body(), 1_000 + u64::from(*number));
        }
        note
    }

    #[test]
    fn the_specifications_example_wants_two_and_one() {
        let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
        assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
        assert_eq!(policy.witnesses()[0].url.as_deref(), Some("https://X1.example/w"));
        for (cosigned, satisfied) in [
            (&[11, 12, 21][..], true),
            (&[11, 13, 23], true),
            (&[11, 12, 13, 21, 22, 23], true),
            (&[11, 21, 22, 23], false),
            (&[11, 12, 13], false),
            (&[], false),
        ] {
            let judged = policy.judge(&note(cosigned), None).unwrap();
            assert_eq!((judged.satisfied, judged.checkpoint.size), (satisfied, 42), "{cosigned:?}");
        }
        assert_eq!(policy.judge(&note(&[12]), None).unwrap().cosigned_s[1], Some(1_012));
    }

    #[test]
    fn a_witness_under_another_body_or_another_log_refuses_the_note() {
        let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
        let bad = note(&[11, 12]) + &witness(21).cosign("another\n1\nbody\n", 5);
        assert_eq!(policy.judge(&bad, None), Err(NoteError::Signature("witness.example/21".to_owned())));
        let other = SigningKey::from_seed(ORIGIN, &[2; 32]).unwrap();
        assert!(matches!(
            policy.judge(&note(&[11]), Some(&other.verify_key().clone().into())),
            Err(NoteError::Unsigned(_))
        ));
        let nameless = TrustPolicy::parse(b"quorum none\n").unwrap();
        assert!(matches!(nameless.judge(&note(&[]), None), Err(NoteError::Unsigned(_))));
        let judged = nameless.judge(&note(&[]), Some(&log().verify_key().clone().into())).unwrap();
        assert!(judged.satisfied && nameless.wants_none());
    }

    #[test]
    fn malformed_files_are_refused_with_their_line() {
        let w = |number| witness(number).cosigner().to_string();
        let log = log().verify_key().to_string();
        for (text, line) in [
            (format!("witness none {}\nquorum none\n", w(1)), 1),
            (format!("witness A {}\nwitness A {}\nquorum A\n", w(1), w(2)), 2),
            (format!("witness A {}\nwitness B {}\nquorum A\n", w(1), w(1)), 2),
            (format!("log {log}\nlog {log}\nquorum none\n"), 2),
            (format!("log {}\nquorum none\n", w(1)), 1),
            (format!("witness A {log}\nquorum A\n"), 1),
            ("group G all A\nquorum G\n".to_owned(), 1),
            (format!("witness A {}\ngroup G 2 A\nquorum G\n", w(1)), 2),
            (format!("witness A {}\ngroup G 0 A\nquorum G\n", w(1)), 2),
            (format!("witness A {}\ngroup G any\nquorum G\n", w(1)), 2),
            (format!("witness A {}\ngroup G any A A\nquorum G\n", w(1)), 2),
            (format!("witness A {}\ngroup G any A\ngroup H any A\nquorum G\n", w(1)), 3),
            (format!("witness A {}\ngroup G any none\nquorum G\n", w(1)), 2),
            ("quorum B\n".to_owned(), 1),
            ("quorum none\nquorum none\n".to_owned(), 2),
            ("quorum\u{1}none\n".to_owned(), 1),
            ("quorum none\r\n".to_owned(), 1),
            ("quroum none\n".to_owned(), 1),
        ] {
            let error = TrustPolicy::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, PolicyFileError::Line { line: at, .. } if at == line), "{text}: {error}");
        }
        assert_eq!(TrustPolicy::parse(b"# nothing\n"), Err(PolicyFileError::File("has no quorum line")));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes: Vec<u8>, words in "((log|witness|group|quorum|none|all|any|[0-9]|A|B)[ \\t\\n]){0,30}") {
            let _ = TrustPolicy::parse(&bytes);
            let _ = TrustPolicy::parse(words.as_bytes());
        }
    }

    #[test]
    fn names_are_octets() {
        let mut text = b"witness \xff\xfe ".to_vec();
        text.extend_from_slice(witness(1).cosigner().to_string().as_bytes());
        text.extend_from_slice(b"\nquorum \xff\xfe");
        let policy = TrustPolicy::parse(&text).unwrap();
        assert!(policy.is_quorum(|index| index == 0) && !policy.is_quorum(|_| false));
    }
}
