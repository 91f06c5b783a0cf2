//! Quotas: how often an account may call, by groups of operations as AWS has them, and how many keys it may have.
//!
//! A call counts against the account of whoever makes it, also on another account's key, and against the user for whom a
//! service calls. Built-ins and break-glass have no quota: no account's flood may keep the responder from acting, or the
//! trail from reading. Why, and where AWS's numbers are from: docs/decisions/0021-quotas.md.

use crate::event::{SOURCE_CLOUDTRAIL, SOURCE_IAM, SOURCE_KMS, SOURCE_STS};
use crate::key::{AccountId, Region};
use crate::spec::KeySpec;
use parking_lot::RwLock;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Groups in order of name, with AWS's defaults in calls a second. A name in capitals is an operation's own quota;
/// `symmetric` covers HMAC keys and GenerateRandom, too. AWS gives out no numbers for IAM, nor for the operations behind
/// it in its list: those have what their neighbours have.
const GROUPS: &[(&str, f64)] = &[
    ("CancelKeyDeletion", 5.0),
    ("ConnectCustomKeyStore", 5.0),
    ("CreateAlias", 5.0),
    ("CreateCustomKeyStore", 5.0),
    ("CreateGrant", 50.0),
    ("CreateKey", 5.0),
    ("DeleteAlias", 15.0),
    ("DeleteCustomKeyStore", 5.0),
    ("DeleteImportedKeyMaterial", 15.0),
    ("DescribeCustomKeyStores", 5.0),
    ("DescribeKey", 2_000.0),
    ("DisableKey", 5.0),
    ("DisableKeyRotation", 5.0),
    ("DisconnectCustomKeyStore", 5.0),
    ("EnableKey", 5.0),
    ("EnableKeyRotation", 15.0),
    ("GenerateDataKeyPair_ECC", 100.0),
    ("GenerateDataKeyPair_RSA_2048", 1.0),
    ("GenerateDataKeyPair_RSA_3072", 0.5),
    ("GenerateDataKeyPair_RSA_4096", 0.1),
    ("GetKeyLastUsage", 1_000.0),
    ("GetKeyPolicy", 1_000.0),
    ("GetKeyRotationStatus", 1_000.0),
    ("GetParametersForImport", 0.25),
    ("GetPublicKey", 2_000.0),
    ("ImportKeyMaterial", 15.0),
    ("ListAliases", 500.0),
    ("ListGrants", 100.0),
    ("ListKeyPolicies", 100.0),
    ("ListKeyRotations", 100.0),
    ("ListKeys", 500.0),
    ("ListResourceTags", 2_000.0),
    ("ListRetirableGrants", 100.0),
    ("LookupEvents", 2.0),
    ("PutKeyPolicy", 15.0),
    ("ReplicateKey", 5.0),
    ("RetireGrant", 50.0),
    ("RevokeGrant", 50.0),
    ("RotateKeyOnDemand", 5.0),
    ("ScheduleKeyDeletion", 15.0),
    ("TagResource", 10.0),
    ("UntagResource", 5.0),
    ("UpdateAlias", 5.0),
    ("UpdateCustomKeyStore", 5.0),
    ("UpdateKeyDescription", 5.0),
    ("UpdatePrimaryRegion", 5.0),
    ("ecc", 1_000.0),
    ("iam", 100.0),
    ("ml_dsa", 1_000.0),
    ("queries", 20.0),
    ("rsa", 1_000.0),
    ("sts", 600.0),
    ("symmetric", 10_000.0),
];
/// Customer keys of one account in one region: AWS's.
const KEYS_MAX: usize = 100_000;
/// A bucket holds at least what comes back in this time,
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// for rare operations up to this,
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// but then no more than this many calls: whoever sets up an application makes its keys at once.
const BURST_MAX: u32 = 300;

/// How often, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    /// What one call costs, in nanoseconds of waiting; nothing without a limit.
    cost_ns: u64,
    /// What a full bucket holds, in the same unit.
    window_ns: u64,
}

impl Limit {
    const NONE: Self = Self { cost_ns: 0, window_ns: 0 };

    /// None for what is no rate.
    fn calls_in(calls: f64, period: Duration) -> Option<Self> {
        let cost = Duration::try_from_secs_f64(period.as_secs_f64() / calls).ok()?;
        if cost.is_zero() || cost > Duration::from_secs(86_400) {
            return None;
        }
        let window = WINDOW_MAX.min(cost * BURST_MAX).max(WINDOW_MIN).max(cost);
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).ok();
        Some(Self { cost_ns: ns(cost)?, window_ns: ns(window)? })
    }

    /// Reads `5/s`, `0.25/s`, `15/m`, `100_000/s` or `unlimited`.
    fn parse(text: &str) -> Option<Self> {
        if text == "unlimited" {
            return Some(Self::NONE);
        }
        let (calls, unit) = text.split_once('/')?;
        let period = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return None,
        };
        let calls: f64 = calls.trim().replace(['_', ','], "").parse().ok().filter(|calls| *calls > 0.0)?;
        Self::calls_in(calls, Duration::from_secs(period))
    }

    /// Takes one call's worth out of a bucket that is full again at the time it holds.
    fn take(self, full_at: &AtomicU64, now_ns: u64) -> bool {
        let taken = |full_at: u64| {
            // A clock that was set back must not keep a bucket empty until it is as late again.
            let from = full_at.clamp(now_ns, now_ns + self.window_ns);
            let next = from + self.cost_ns;
            (next - now_ns <= self.window_ns, next, from)
        };
        let mut there = false;
        let _ = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let (enough, next, from) = taken(full_at);
            there = enough;
            Some(if enough { next } else { from })
        });
        there
    }
}

/// `[quotas]` of keytrail.toml: groups whose limit is another than AWS's, and `keys`, the number of keys of an account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct QuotaSettings {
    limits: Vec<Limit>,
    keys_max: usize,
}

/// Why `[quotas]` is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// No group of this name.
    #[error("unknown quota {name}; there are keys, {known}", known = names())]
    Unknown {
        /// As written.
        name: String,
    },
    /// Not a rate.
    #[error("quota {0} is no rate such as 5/s, 0.25/s, 15/m, 100_000/s or unlimited")]
    Rate(String),
    /// Not a number of keys.
    #[error("quota keys is no number such as 100_000")]
    Keys,
}

fn names() -> String {
    GROUPS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl Default for QuotaSettings {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let limit = |calls| Limit::calls_in(calls, second).expect("the defaults are rates");
        Self { limits: GROUPS.iter().map(|(_, calls)| limit(*calls)).collect(), keys_max: KEYS_MAX }
    }
}

impl TryFrom<BTreeMap<String, String>> for QuotaSettings {
    type Error = QuotaError;

    fn try_from(members: BTreeMap<String, String>) -> Result<Self, QuotaError> {
        let mut settings = Self::default();
        for (name, text) in members {
            if name == "keys" {
                settings.keys_max = text.replace(['_', ','], "").parse().map_err(|_| QuotaError::Keys)?;
                continue;
            }
            let Some(group) = Group::named(&name) else { return Err(QuotaError::Unknown { name }) };
            settings.limits[group.0] = Limit::parse(&text).ok_or(QuotaError::Rate(name))?;
        }
        Ok(settings)
    }
}

impl QuotaSettings {
    /// No limits, for benches and tests of what they would hide.
    pub fn unlimited() -> Self {
        Self { limits: vec![Limit::NONE; GROUPS.len()], keys_max: usize::MAX }
    }
}

/// A group of operations that share a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(usize);

impl Group {
    /// By its name: an operation's, or a shared one.
    pub(crate) fn named(name: &str) -> Option<Self> {
        GROUPS.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(Self)
    }

    /// Of a call whose group its name tells.
    pub(crate) fn of_call(source: &str, operation: &str) -> Option<Self> {
        match (source, operation) {
            (SOURCE_KMS, "GenerateRandom") => Self::named("symmetric"),
            (SOURCE_KMS, name) => Self::named(name),
            (SOURCE_CLOUDTRAIL, "LookupEvents") => Self::named("LookupEvents"),
            (SOURCE_CLOUDTRAIL, _) => Self::named("queries"),
            (SOURCE_STS, _) => Self::named("sts"),
            (SOURCE_IAM, _) => Self::named("iam"),
            _ => None,
        }
    }

    /// Of an action that uses a key's material: by the key's kind, or by that of the pair it asks for.
    pub(crate) fn of_use(action: &str, spec: KeySpec, pair_spec: Option<&str>) -> Option<Self> {
        let name = match (action.strip_prefix("kms:")?, pair_spec) {
            ("GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext", Some("RSA_2048")) => {
                "GenerateDataKeyPair_RSA_2048"
            }
            ("GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext", Some("RSA_3072")) => {
                "GenerateDataKeyPair_RSA_3072"
            }
            ("GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext", Some("RSA_4096")) => {
                "GenerateDataKeyPair_RSA_4096"
            }
            ("GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext", _) => "GenerateDataKeyPair_ECC",
            (
                "Decrypt"
                | "DeriveSharedSecret"
                | "Encrypt"
                | "GenerateDataKey"
                | "GenerateDataKeyWithoutPlaintext"
                | "GenerateMac"
                | "ReEncryptFrom"
                | "ReEncryptTo"
                | "Sign"
                | "Verify"
                | "VerifyMac",
                _,
            ) => family(spec),
            _ => return None,
        };
        Self::named(name)
    }
}

fn family(spec: KeySpec) -> &'static str {
    match spec {
        KeySpec::SymmetricDefault | KeySpec::Hmac224 | KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 => {
            "symmetric"
        }
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => "rsa",
        KeySpec::P256 | KeySpec::P384 | KeySpec::P521 | KeySpec::Secp256k1 | KeySpec::Ed25519 => "ecc",
        KeySpec::MlDsa44 | KeySpec::MlDsa65 | KeySpec::MlDsa87 => "ml_dsa",
    }
}

/// One bucket a group: when it is full again, in Unix nanoseconds.
type Buckets = Arc<[AtomicU64]>;

/// The buckets of a node's accounts in each region, as AWS counts. Only callers whose signature held reach them: there are
/// never more than accounts that the administrator has named, in each of the regions of the configuration.
pub(crate) struct Quotas {
    settings: QuotaSettings,
    buckets: RwLock<HashMap<(AccountId, Region), Buckets>>,
}

impl Quotas {
    /// Full ones.
    pub(crate) fn new(settings: QuotaSettings) -> Self {
        Self { settings, buckets: RwLock::default() }
    }

    /// Whether an account may make one more call of a group in a region now.
    pub(crate) fn take(&self, place: (AccountId, Region), group: Group, now_us: u64) -> bool {
        let limit = self.settings.limits[group.0];
        if limit == Limit::NONE {
            return true;
        }
        let known = self.buckets.read().get(&place).map(Arc::clone);
        let buckets = known.unwrap_or_else(|| {
            let full = || GROUPS.iter().map(|_| AtomicU64::new(0)).collect();
            Arc::clone(self.buckets.write().entry(place).or_insert_with(full))
        });
        limit.take(&buckets[group.0], now_us.saturating_mul(1_000))
    }

    /// Keys that an account may have.
    pub(crate) fn keys_max(&self) -> usize {
        self.settings.keys_max
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::{Clock, FakeClock};

    fn account(digit: u8) -> (AccountId, Region) {
        (AccountId::parse(&format!("{digit:012}")).unwrap(), Region::parse("eu-central-1").unwrap())
    }

    /// How many of `calls` calls pass.
    fn passing(quotas: &Quotas, clock: &FakeClock, group: &str, calls: usize) -> usize {
        let group = Group::named(group).unwrap();
        (0..calls).filter(|_| quotas.take(account(1), group, clock.now_us())).count()
    }

    #[test]
    fn each_group_has_its_burst_and_its_rate() {
        let clock = FakeClock::default();
        let quotas = Quotas::new(QuotaSettings::default());
        for (group, burst, after_ten_secs) in [
            ("symmetric", 10_000, 10_000),
            ("rsa", 1_000, 1_000),
            ("ecc", 1_000, 1_000),
            ("ml_dsa", 1_000, 1_000),
            ("DescribeKey", 2_000, 2_000),
            ("GetKeyPolicy", 1_000, 1_000),
            ("CreateKey", 300, 50),
            ("GetParametersForImport", 15, 2),
            ("GenerateDataKeyPair_RSA_2048", 60, 10),
            ("GenerateDataKeyPair_RSA_3072", 30, 5),
            ("GenerateDataKeyPair_RSA_4096", 6, 1),
        ] {
            assert_eq!(passing(&quotas, &clock, group, 20_000), burst, "{group}");
            clock.advance(Duration::from_secs(10));
            assert_eq!(passing(&quotas, &clock, group, 20_000), after_ten_secs, "{group}");
        }
    }

    #[test]
    fn accounts_regions_and_groups_do_not_take_from_each_other() {
        let clock = FakeClock::default();
        let quotas = Quotas::new(QuotaSettings::default());
        assert_eq!(passing(&quotas, &clock, "symmetric", 10_001), 10_000);
        assert_eq!(passing(&quotas, &clock, "rsa", 1_001), 1_000);
        assert!(quotas.take(account(2), Group::named("symmetric").unwrap(), clock.now_us()));
        let elsewhere = (account(1).0, Region::parse("us-east-1").unwrap());
        assert!(quotas.take(elsewhere, Group::named("symmetric").unwrap(), clock.now_us()));
        clock.advance(Duration::from_micros(100));
        assert_eq!(passing(&quotas, &clock, "symmetric", 2), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_close_a_bucket_for_good() {
        let clock = FakeClock::default();
        let quotas = Quotas::new(QuotaSettings::default());
        assert_eq!(passing(&quotas, &clock, "symmetric", 10_001), 10_000);
        clock.set(FakeClock::START_US - 86_400_000_000);
        assert_eq!(passing(&quotas, &clock, "symmetric", 10), 0);
        clock.advance(Duration::from_millis(500));
        assert_eq!(passing(&quotas, &clock, "symmetric", 10_000), 5_000);
    }

    #[test]
    fn uses_count_by_the_key_s_kind_and_pairs_by_their_own() {
        let of = |action, spec, pair| Group::of_use(action, spec, pair).map(|group| GROUPS[group.0].0);
        for (action, spec, pair, group) in [
            ("kms:Decrypt", KeySpec::SymmetricDefault, None, Some("symmetric")),
            ("kms:Decrypt", KeySpec::Rsa4096, None, Some("rsa")),
            ("kms:ReEncryptTo", KeySpec::Rsa2048, None, Some("rsa")),
            ("kms:Sign", KeySpec::Ed25519, None, Some("ecc")),
            ("kms:Sign", KeySpec::MlDsa65, None, Some("ml_dsa")),
            ("kms:VerifyMac", KeySpec::Hmac256, None, Some("symmetric")),
            (
                "kms:GenerateDataKeyPair",
                KeySpec::SymmetricDefault,
                Some("RSA_4096"),
                Some("GenerateDataKeyPair_RSA_4096"),
            ),
            (
                "kms:GenerateDataKeyPairWithoutPlaintext",
                KeySpec::SymmetricDefault,
                Some("ECC_NIST_P256"),
                Some("GenerateDataKeyPair_ECC"),
            ),
            ("kms:DescribeKey", KeySpec::Rsa2048, None, None),
        ] {
            assert_eq!(of(action, spec, pair), group, "{action} {spec:?}");
        }
        assert!(GROUPS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn settings_are_human_and_strict() {
        let read = toml::from_str::<QuotaSettings>;
        let settings =
            read("symmetric = \"100_000/s\"\nCreateKey = \"15/m\"\nrsa = \"unlimited\"\nkeys = \"5\"").unwrap();
        assert_eq!(settings.limits[Group::named("symmetric").unwrap().0].cost_ns, 10_000);
        assert_eq!(settings.limits[Group::named("CreateKey").unwrap().0].cost_ns, 4_000_000_000);
        let quotas = Quotas::new(settings);
        assert_eq!(passing(&quotas, &FakeClock::default(), "rsa", 5_000), 5_000);
        assert_eq!((passing(&quotas, &FakeClock::default(), "ecc", 5_000), quotas.keys_max()), (1_000, 5));
        assert_eq!(read("").unwrap(), QuotaSettings::default());
        for wrong in
            ["rsaa = \"5/s\"", "rsa = \"5\"", "rsa = \"0/s\"", "rsa = \"-1/s\"", "rsa = \"5/d\"", "rsa = \"inf/s\""]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("rsaa = \"5/s\"").unwrap_err().to_string().contains("unknown quota rsaa"));
    }
}
