//! Cosignatures: what a witness adds to a log's checkpoint (C2SP tlog-cosignature v1, Ed25519, type 0x04).
//!
//! The line says that at a time this was the largest head of this log that the witness had seen, and that the log had
//! only grown. It signs the whole body of the note, extension lines of foreign logs included.

use super::checkpoint::{
    Checkpoint, NoteError, Pkcs8, SIGNATURE_PREFIX, SigningKey, VerifyKey, key_hash, parse_vkey, signature_line,
    split_note, write_vkey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;
use std::str::FromStr;

/// Signature type byte of Ed25519 cosignatures.
const ALGORITHM_COSIGNATURE: u8 = 4;

/// A signed note taken apart, nothing of it verified.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// The signed text, with its last newline.
    pub body: &'a str,
    /// The signature lines.
    pub signatures: &'a str,
}

impl<'a> Note<'a> {
    /// Splits a note.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        let (body, signatures) = split_note(note)?;
        Ok(Self { body, signatures })
    }

    /// The checkpoint in the body; lines behind the third are passed over.
    pub fn checkpoint(&self) -> Result<Checkpoint, NoteError> {
        Checkpoint::parse_head(self.body).map(|(checkpoint, _)| checkpoint)
    }

    /// Whether a log's key has signed it; a signature under its name and hash that does not verify is an error.
    pub fn is_signed_by(&self, key: &VerifyKey) -> Result<bool, NoteError> {
        key.signed(self.body, self.signatures)
    }

    /// Whether every signature line has the form of one.
    pub fn check_lines(&self) -> Result<(), NoteError> {
        self.signatures.lines().try_for_each(|line| signature_line(line).map(|_| ()))
    }

    /// When a witness has cosigned it, in Unix seconds; the newest of several.
    pub fn cosigned_by(&self, cosigner: &Cosigner) -> Result<Option<u64>, NoteError> {
        let mut newest = None;
        for line in self.signatures.lines() {
            newest = newest.max(cosigner.time_in(self.body, line)?);
        }
        Ok(newest)
    }
}

/// The private key of a witness. No Debug, no Clone; wiped on drop.
pub struct CosigningKey {
    key: SigningKey,
    public: Cosigner,
}

impl CosigningKey {
    /// A new key named `name`.
    pub fn generate(name: &str) -> Result<(Self, Pkcs8), NoteError> {
        let (key, pkcs8) = SigningKey::generate(name)?;
        Ok((Self::of(key), pkcs8))
    }

    /// The key named `name` from its PKCS#8 bytes.
    pub fn from_pkcs8(name: &str, pkcs8: &Pkcs8) -> Result<Self, NoteError> {
        SigningKey::from_pkcs8(name, pkcs8).map(Self::of)
    }

    /// A key that everyone knows, for test vectors.
    #[cfg(any(test, feature = "testing"))]
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        SigningKey::from_seed(name, seed).map(Self::of)
    }

    /// The public half.
    pub fn cosigner(&self) -> &Cosigner {
        &self.public
    }

    /// The signature line over a note's body, with its newline.
    pub fn cosign(&self, body: &str, time_s: u64) -> String {
        let signature = self.key.sign_bytes(message(body, time_s).as_bytes());
        let mut bytes = self.public.hash().to_vec();
        bytes.extend_from_slice(&time_s.to_be_bytes());
        bytes.extend_from_slice(&signature);
        format!("{SIGNATURE_PREFIX}{} {}\n", self.public.name, BASE64.encode(bytes))
    }

    fn of(key: SigningKey) -> Self {
        let verify = key.verify_key();
        let public = Cosigner { name: verify.name().to_owned(), public: verify.clone() };
        Self { key, public }
    }
}

/// The public key of a witness, written as a C2SP vkey of type 0x04.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cosigner {
    name: String,
    public: VerifyKey,
}

impl Cosigner {
    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 public bytes.
    pub fn public(&self) -> &[u8; 32] {
        self.public.public()
    }

    /// The key's hash in a signature line.
    pub fn hash(&self) -> [u8; 4] {
        key_hash(&self.name, ALGORITHM_COSIGNATURE, self.public())
    }

    /// The time in a signature line over `body`, if the line is by this witness; one that does not verify is an error.
    pub fn time_in(&self, body: &str, line: &str) -> Result<Option<u64>, NoteError> {
        let (name, hash, bytes) = signature_line(line)?;
        if name != self.name || hash != self.hash() {
            return Ok(None);
        }
        let wrong = || NoteError::Signature(self.name.clone());
        let (time, signature) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
        let time_s = u64::from_be_bytes(*time);
        // Zero is for statements that leave out "this is the largest", which is the one that is wanted.
        let sane = time_s > 0 && i64::try_from(time_s).is_ok();
        if sane && self.public.verify_bytes(message(body, time_s).as_bytes(), signature) {
            return Ok(Some(time_s));
        }
        Err(wrong())
    }
}

impl fmt::Display for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write_vkey(&self.name, ALGORITHM_COSIGNATURE, self.public()))
    }
}

impl FromStr for Cosigner {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, public) = parse_vkey(text, ALGORITHM_COSIGNATURE)?;
        Ok(Self { name: name.to_owned(), public: VerifyKey::of_public(name, public) })
    }
}

/// What an Ed25519 cosignature signs.
fn message(body: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{body}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tree::RootHash;
    use super::*;

    /// The example of the specification; it does not say the keys.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    fn key() -> CosigningKey {
        CosigningKey::from_seed("witness.example/w1", &[2; 32]).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let note = Note::parse(EXAMPLE).unwrap();
        assert_eq!(note.checkpoint().unwrap().size, 20_852_163);
        let (name, hash, bytes) = signature_line(note.signatures.lines().nth(1).unwrap()).unwrap();
        assert_eq!((name, hash), ("witness.example.com/w1", [0x8d, 0x66, 0xcf, 0x3f]));
        let (time, signature) = bytes.split_first_chunk::<8>().unwrap();
        assert_eq!((u64::from_be_bytes(*time), signature.len()), (1_679_315_147, 64));
        let signed = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
                      CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(message(note.body, 1_679_315_147), signed);
        assert_eq!(note.cosigned_by(key().cosigner()), Ok(None), "unknown keys are passed over");
    }

    #[test]
    fn a_cosignature_reads_back_and_a_changed_one_refuses_the_note() {
        let log = SigningKey::from_seed("keytrail/test/node-1", &[1; 32]).unwrap();
        let checkpoint = Checkpoint { origin: "keytrail/test/node-1".to_owned(), size: 7, root: RootHash([3; 32]) };
        let signed = log.sign(&checkpoint).unwrap();
        let line = key().cosign(Note::parse(&signed).unwrap().body, 1_800_000_000);
        let cosigned = format!("{signed}{line}");
        let note = Note::parse(&cosigned).unwrap();
        assert_eq!(note.cosigned_by(key().cosigner()), Ok(Some(1_800_000_000)));
        assert_eq!(note.is_signed_by(log.verify_key()), Ok(true));
        assert_eq!(log.verify_key().verify(&cosigned), Ok(checkpoint), "the log's own verifier passes over it");
        let other = format!("{signed}{}", key().cosign("other\n1\n\n", 1_800_000_000));
        let refused = Err(NoteError::Signature("witness.example/w1".to_owned()));
        assert_eq!(Note::parse(&other).unwrap().cosigned_by(key().cosigner()), refused);
        let zero = format!("{signed}{}", key().cosign(note.body, 0));
        assert_eq!(Note::parse(&zero).unwrap().cosigned_by(key().cosigner()), refused);
        let same_name = CosigningKey::from_seed("witness.example/w1", &[9; 32]).unwrap();
        assert_eq!(note.cosigned_by(same_name.cosigner()), Ok(None), "another key of that name is another witness");
    }

    #[test]
    fn extension_lines_of_foreign_logs_are_cosigned_unread_and_empty_ones_refused() {
        let body = format!("{}extension 1\nextension 2\n", Note::parse(EXAMPLE).unwrap().body);
        let note = format!("{body}\n{}", key().cosign(&body, 5));
        let note = Note::parse(&note).unwrap();
        assert_eq!(note.checkpoint().unwrap().origin, "example.com/behind-the-sofa");
        assert_eq!(note.cosigned_by(key().cosigner()), Ok(Some(5)));
        assert!(Note { body: &format!("{body}\nmore\n"), signatures: "" }.checkpoint().is_err());
    }

    #[test]
    fn keys_of_logs_and_of_witnesses_are_told_apart() {
        let vkey = key().cosigner().to_string();
        assert_eq!(vkey.parse(), Ok(key().cosigner().clone()));
        assert_eq!(vkey.parse::<VerifyKey>(), Err(NoteError::VerifyKey));
        let log = SigningKey::from_seed("witness.example/w1", &[2; 32]).unwrap().verify_key().to_string();
        assert_eq!(log.parse::<Cosigner>(), Err(NoteError::VerifyKey));
        let (made, pkcs8) = CosigningKey::generate("w").unwrap();
        assert_eq!(CosigningKey::from_pkcs8("w", &pkcs8).unwrap().cosigner(), made.cosigner());
    }
}
