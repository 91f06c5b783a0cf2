//! Time-based one-time passwords: RFC 6238 with SHA-1, six digits, thirty seconds, as virtual MFA devices have them.
//!
//! A code is taken one step early or late and once only: each device remembers the last step that worked. After a few
//! wrong codes a device is locked for a while that doubles, so that guessing a million codes takes years. That lock and
//! the memory of a code that was used but not stored are this process's own; used steps are in the store.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::credentials::CredentialsError;

/// Length of the seeds made here: AWS's, 64 characters of Base32.
const SEED_BYTES: usize = 40;
/// RFC 4226 asks for 16 at least.
const SEED_BYTES_MIN: usize = 16;
const SEED_BYTES_MAX: usize = 128;
const STEP_US: u64 = 30_000_000;
const DIGITS: usize = 6;
/// Wrong codes in a row before a device is locked.
const FAILURES_FREE: u32 = 5;
/// First lock; each further wrong code doubles it.
const LOCK_US: u64 = 60_000_000;
/// Longest lock: at one guess an hour, three of a million codes being right, half a lifetime goes by.
const LOCK_US_MAX: u64 = 3_600_000_000;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A device's secret. Never printed, cloned or serialised; wiped on drop.
pub struct Seed(Zeroizing<Vec<u8>>);

impl Seed {
    /// A new random seed.
    pub fn generate() -> Result<Self, CredentialsError> {
        let mut bytes = Zeroizing::new(vec![0; SEED_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CredentialsError::Random)?;
        Ok(Self(bytes))
    }

    /// Takes bytes over, if they are enough for a seed.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (SEED_BYTES_MIN..=SEED_BYTES_MAX).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// Reads Base32 without padding, as authenticator programs show it; blanks and case do not matter.
    pub fn from_base32(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let (mut buffer, mut bits) = (0_u32, 0_u32);
        for letter in text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')) {
            let letter = letter.to_ascii_uppercase();
            let value = BASE32.iter().position(|known| *known == letter)?;
            buffer = (buffer << 5) | u32::try_from(value).ok()?;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from((buffer >> bits) & 0xff).ok()?);
            }
        }
        Self::new(bytes)
    }

    /// Base32 in clear: shown once to the person whose device it becomes.
    pub fn expose_base32(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 8 / 5 + 1));
        let (mut buffer, mut bits) = (0_u32, 0_u32);
        for byte in self.0.iter() {
            buffer = (buffer << 8) | u32::from(*byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                text.push(char::from(BASE32[(buffer >> bits) as usize & 31]));
            }
        }
        if bits > 0 {
            text.push(char::from(BASE32[(buffer << (5 - bits)) as usize & 31]));
        }
        text
    }

    /// The bytes in clear, for sealing them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The six digits of a step.
    fn code(&self, step: u64) -> Zeroizing<String> {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let at = usize::from(tag.last().copied().unwrap_or_default() & 15);
        let number = tag.iter().skip(at).take(4).fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
        Zeroizing::new(format!("{:0DIGITS$}", (number & 0x7fff_ffff) % 1_000_000))
    }

    /// The digits that a device would show.
    #[cfg(test)]
    pub(crate) fn code_at(&self, now_us: u64) -> Zeroizing<String> {
        self.code(now_us / STEP_US)
    }

    fn is_code(&self, step: u64, code: &str) -> bool {
        verify_slices_are_equal(self.code(step).as_bytes(), code.as_bytes()).is_ok()
    }

    /// Whether two codes belong to two steps in a row, the later at most so many steps from now: proof that someone has
    /// the device. Gives the later step and how far off it is; the nearest of several.
    pub fn enrolled(&self, first: &str, second: &str, now_us: u64, steps_max: i64) -> Option<(u64, i64)> {
        let now = now_us / STEP_US;
        let near = (0..=steps_max).flat_map(|off| [-off, off]);
        near.filter_map(|off| Some((now.checked_add_signed(off)?, off)))
            .find(|(step, _)| self.is_code(*step, second) && self.is_code(step.saturating_sub(1), first))
    }
}

/// Why a code is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// Not this device's, not of now, or used before.
    Wrong,
    /// Too many wrong codes.
    Locked,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    last_step: u64,
    failures: u32,
    locked_until_us: u64,
}

/// What is known of each device's codes, by its ARN.
#[derive(Default)]
pub struct Codes(Mutex<HashMap<String, Counter>>);

impl Codes {
    /// With the steps last used, as stored.
    pub fn new(last_steps: impl IntoIterator<Item = (String, u64)>) -> Self {
        let counter = |last_step| Counter { last_step, ..Counter::default() };
        Self(Mutex::new(last_steps.into_iter().map(|(serial, step)| (serial, counter(step))).collect()))
    }

    /// Notes a step as used.
    pub fn used(&self, serial: &str, step: u64) {
        let mut all = self.0.lock();
        let counter = all.entry(serial.to_owned()).or_default();
        counter.last_step = counter.last_step.max(step);
    }

    /// Uses a code up; gives its step, which is to be stored. `drift_steps`: how far the device's clock is off.
    pub fn redeem(
        &self,
        serial: &str,
        seed: &Seed,
        drift_steps: i64,
        code: &str,
        now_us: u64,
    ) -> Result<u64, CodeError> {
        let mut all = self.0.lock();
        let counter = all.entry(serial.to_owned()).or_default();
        if counter.locked_until_us > now_us {
            return Err(CodeError::Locked);
        }
        let now = (now_us / STEP_US).saturating_add_signed(drift_steps);
        let near = now.saturating_sub(1)..=now.saturating_add(1);
        match near.filter(|step| *step > counter.last_step).find(|step| seed.is_code(*step, code)) {
            Some(step) => {
                *counter = Counter { last_step: step, ..Counter::default() };
                Ok(step)
            }
            None => {
                counter.failures += 1;
                if let Some(further) = counter.failures.checked_sub(FAILURES_FREE) {
                    let doubled = LOCK_US.saturating_mul(1 << further.min(10));
                    counter.locked_until_us = now_us + doubled.min(LOCK_US_MAX);
                }
                Err(CodeError::Wrong)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    fn seed() -> Seed {
        Seed::from_base32("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap()
    }

    /// RFC 6238, appendix B, SHA-1: the last six of its eight digits.
    #[test]
    fn the_rfcs_vectors_hold() {
        assert_eq!(seed().expose(), b"12345678901234567890");
        assert_eq!(*seed().expose_base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        for (secs, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(*seed().code(secs / 30), code, "{secs}");
        }
    }

    #[test]
    fn a_code_works_once_and_one_step_around_its_own() {
        let codes = Codes::default();
        let now_us = 1_111_111_109 * SECOND_US;
        let redeem = |code: &str, at_us| codes.redeem("d", &seed(), 0, code, at_us);
        assert_eq!(redeem("081804", now_us + 60 * SECOND_US), Err(CodeError::Wrong), "too late");
        let step = redeem("081804", now_us + 30 * SECOND_US).unwrap();
        assert_eq!(step, 1_111_111_109 / 30);
        assert_eq!(redeem("081804", now_us), Err(CodeError::Wrong), "used");
        let later = redeem("050471", now_us).unwrap();
        assert_eq!(later, step + 1, "one step early");
        let stored = Codes::new([("d".to_owned(), later)]);
        assert_eq!(stored.redeem("d", &seed(), 0, "050471", now_us), Err(CodeError::Wrong), "used before the restart");
        for wrong in ["", "05047", "0504711", "abcdef"] {
            assert_eq!(redeem(wrong, now_us), Err(CodeError::Wrong), "{wrong}");
        }
    }

    #[test]
    fn wrong_codes_lock_a_device_for_longer_and_longer() {
        let codes = Codes::default();
        let mut now_us = 1_111_111_109 * SECOND_US;
        for _ in 0..FAILURES_FREE {
            assert_eq!(codes.redeem("d", &seed(), 0, "000000", now_us), Err(CodeError::Wrong));
        }
        assert_eq!(codes.redeem("d", &seed(), 0, "081804", now_us), Err(CodeError::Locked));
        assert_eq!(codes.redeem("other", &seed(), 0, "081804", now_us).unwrap(), 1_111_111_109 / 30);
        for minutes in [2, 4, 8, 16, 32, 60, 60] {
            now_us += LOCK_US_MAX;
            assert_eq!(codes.redeem("d", &seed(), 0, "000000", now_us), Err(CodeError::Wrong));
            let almost_us = now_us + (minutes * 60 - 1) * SECOND_US;
            assert_eq!(codes.redeem("d", &seed(), 0, "000000", almost_us), Err(CodeError::Locked), "{minutes}");
        }
        now_us += LOCK_US_MAX;
        let code = seed().code(now_us / STEP_US);
        assert!(codes.redeem("d", &seed(), 0, &code, now_us).is_ok());
        assert_eq!(codes.redeem("d", &seed(), 0, "000000", now_us), Err(CodeError::Wrong), "free again");
    }

    #[test]
    fn two_codes_in_a_row_prove_a_device() {
        let seed = Seed::generate().unwrap();
        assert_eq!(seed.expose_base32().len(), 64);
        let again = Seed::from_base32(&seed.expose_base32()).unwrap();
        assert_eq!(again.expose(), seed.expose());
        let now_us = 1_767_614_400 * SECOND_US;
        let step = now_us / STEP_US;
        let code = |step| seed.code(step);
        assert_eq!(seed.enrolled(&code(step - 1), &code(step), now_us, 1), Some((step, 0)));
        assert_eq!(seed.enrolled(&code(step - 2), &code(step - 1), now_us, 1), Some((step - 1, -1)));
        assert_eq!(seed.enrolled(&code(step), &code(step), now_us, 1), None);
        assert_eq!(seed.enrolled(&code(step), &code(step - 1), now_us, 1), None);
        assert_eq!(seed.enrolled(&code(step - 9), &code(step - 8), now_us, 1), None);
        assert_eq!(seed.enrolled(&code(step - 9), &code(step - 8), now_us, 10), Some((step - 8, -8)));
        let codes = Codes::default();
        assert_eq!(codes.redeem("d", &seed, 0, &code(step - 8), now_us), Err(CodeError::Wrong));
        codes.used("d", step - 8);
        assert_eq!(codes.redeem("d", &seed, -8, &code(step - 8), now_us), Err(CodeError::Wrong));
        assert_eq!(codes.redeem("d", &seed, -8, &code(step - 7), now_us), Ok(step - 7));
        assert!(Seed::from_base32("GEZDGNBVGY3TQOJQ").is_none(), "ten bytes");
        assert!(Seed::from_base32("0189!").is_none());
    }
}
