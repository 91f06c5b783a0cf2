//! Where things are: accounts, regions, key ids, and the ARNs made of them.
//!
//! A key is found by its account and its [`KeyId`], which holds the region: a call in one region cannot name a key of
//! another. Related multi-Region keys have one id in AWS's sense, and here one [`KeyId`] for each region.
//! docs/decisions/0015-multi-region-keys.md.

use std::fmt;
use uuid::Uuid;

/// An AWS account: twelve digits, small enough to copy everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId([u8; 12]);

impl AccountId {
    /// Reads exactly twelve ASCII digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 12] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then_some(Self(digits))
    }

    /// The twelve digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an account id holds ASCII digits only")
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest name of a region: AWS's limit.
pub const REGION_BYTES_MAX: usize = 32;

/// A region: 1 to 32 lower-case letters, digits and hyphens, small enough to copy everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region {
    /// Filled up with zeros, so that regions are in the order of their names.
    bytes: [u8; REGION_BYTES_MAX],
}

impl Region {
    /// Reads a region's name.
    pub fn parse(text: &str) -> Option<Self> {
        let sane = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || !text.bytes().all(sane) {
            return None;
        }
        let mut bytes = [0; REGION_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(REGION_BYTES_MAX);
        std::str::from_utf8(&self.bytes[..end]).expect("a region's name is ASCII")
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What AWS's ids of multi-Region keys begin with.
const MULTI_REGION_PREFIX: &str = "mrk-";

/// A key's id, and the region in which the key is: a random UUID, as at AWS. Its text is the id without the region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId {
    /// Where the key is.
    pub region: Region,
    /// Whether there may be related keys in other regions, with the same UUID.
    pub multi_region: bool,
    /// What tells it from all keys but those.
    pub uuid: Uuid,
}

impl KeyId {
    /// The id of a key that is in one region only.
    pub fn single(region: Region, uuid: Uuid) -> Self {
        Self { region, multi_region: false, uuid }
    }

    /// Reads the hyphenated lower- or upper-case form, or `mrk-` and 32 hex digits, as the id of a key in a region; AWS
    /// takes no other.
    pub fn parse(text: &str, region: Region) -> Option<Self> {
        let (multi_region, uuid) = match text.strip_prefix(MULTI_REGION_PREFIX) {
            Some(digits) => (true, (digits.len() == 32).then_some(digits)?),
            None => (false, (text.len() == 36).then_some(text)?),
        };
        Some(Self { region, multi_region, uuid: Uuid::try_parse(uuid).ok()? })
    }

    /// The related key in another region.
    pub fn in_region(self, region: Region) -> Self {
        Self { region, ..self }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            write!(f, "{MULTI_REGION_PREFIX}{}", self.uuid.simple())
        } else {
            self.uuid.hyphenated().fmt(f)
        }
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{self}", self.region)
    }
}

/// `arn:aws:kms:<region>:<account>:key/<id>`.
pub fn key_arn(account: AccountId, id: KeyId) -> String {
    format!("arn:aws:kms:{}:{account}:key/{id}", id.region)
}

/// `arn:aws:kms:<region>:<account>:alias/...`; the name holds its `alias/` prefix.
pub fn alias_arn(region: Region, account: AccountId, name: &str) -> String {
    format!("arn:aws:kms:{region}:{account}:{name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn accounts_regions_and_key_ids_take_only_their_exact_form() {
        assert!(AccountId::parse("123456789012").is_some());
        for wrong in ["12345678901", "1234567890123", "12345678901x", ""] {
            assert!(AccountId::parse(wrong).is_none(), "{wrong}");
        }
        let region = Region::parse("eu-central-1").unwrap();
        assert_eq!(region.as_str(), "eu-central-1");
        assert_eq!(Region::parse(&"a".repeat(32)).unwrap().as_str(), "a".repeat(32));
        for wrong in ["", "EU", "eu_central", "eu central", "\0", &"a".repeat(33)] {
            assert!(Region::parse(wrong).is_none(), "{wrong}");
        }
        assert!(region < Region::parse("eu-central-2").unwrap() && Region::parse("eu").unwrap() < region);
        for id in ["1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1234abcd12ab34cd56ef1234567890ab"] {
            let read = KeyId::parse(id, region).unwrap();
            assert_eq!((read.to_string().as_str(), read.multi_region), (id, id.starts_with("mrk-")));
            assert_ne!(read, KeyId::parse(id, Region::parse("us-east-1").unwrap()).unwrap());
        }
        for wrong in [
            "1234abcd12ab34cd56ef1234567890ab",
            "{1234abcd-12ab-34cd-56ef-1234567890ab}",
            "mrk-1234abcd-12ab-34cd-56ef-1234567890ab",
            "mrk-1234abcd12ab34cd56ef1234567890a",
            "mrk-",
            "x",
        ] {
            assert!(KeyId::parse(wrong, region).is_none(), "{wrong}");
        }
    }
}
