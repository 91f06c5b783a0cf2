//! One door for libFuzzer; what it does and must hold is in crates/kms/src/fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    keytrail_kms::fuzz::body(data);
});
