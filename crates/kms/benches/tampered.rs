//! Whether the time of a refused Decrypt tells what is wrong with a ciphertext: the path from a usable key to its refusal,
//! timed for each kind of damage.
//!
//! `cargo bench --profile demo -p keytrail-kms --features testing --bench tampered`; results and what follows from them are kept in
//! benches/RESULTS.md and docs/ciphertext.md. Groups take turns, so that what else the machine does meets all of them alike.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use keytrail_kms::crypto::{MaterialId, SecretHalf, ciphertext};
use keytrail_kms::key::{AccountId, KeyId, KeyRecord, Material, PolicyPool, Region};
use keytrail_kms::policy::{Document, Flavor, default_key_policy};
use keytrail_kms::spec::{KeyKind, RotationType};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Rounds of each plaintext's length; each times every group once.
const ROUNDS: usize = 100_000;
/// Slowest samples that a mean leaves out: those in which the machine did something else.
const CUT_PERCENT: usize = 5;
const ACCOUNT: &str = "123456789012";
/// Where the parts of a blob begin that a key in `eu-central-1` made: docs/ciphertext.md.
const ACCOUNT_AT: usize = 2;
const MATERIAL_AT: usize = 64;
const SALT_AT: usize = 96;
const NONCE_AT: usize = 128;
const TEXT_AT: usize = 140;
const TAG_BYTES: usize = 16;

type Context = BTreeMap<String, String>;

/// One kind of damage; makes a blob and its context wrong, by a number that is another each time.
struct Group {
    name: &'static str,
    damage: fn(&mut Vec<u8>, &mut Context, usize),
}

const GROUPS: &[Group] = &[
    Group { name: "bit of the encrypted text", damage: |blob, _, at| flip_text(blob, at) },
    Group { name: "the same again: noise", damage: |blob, _, at| flip_text(blob, at) },
    Group { name: "bit of the tag", damage: |blob, _, at| flip_tag(blob, at) },
    Group { name: "bit of the nonce", damage: |blob, _, at| flip(blob, NONCE_AT, TEXT_AT, at) },
    Group { name: "bit of the salt", damage: |blob, _, at| flip(blob, SALT_AT, NONCE_AT, at) },
    Group { name: "bit of the material id", damage: |blob, _, at| flip(blob, MATERIAL_AT, SALT_AT, at) },
    Group { name: "another account in the header", damage: |blob, _, at| blob[ACCOUNT_AT + at % 12] ^= 1 },
    Group { name: "an older material in the header", damage: |blob, _, _| blob[MATERIAL_AT..SALT_AT].fill(1) },
    Group { name: "another context", damage: |_, context, at| *context.get_mut("tenant").unwrap() = letter(at) },
    Group { name: "no ciphertext by its form", damage: |blob, _, at| blob[at % 2] = 9 },
    Group { name: "opens", damage: |_, _, _| {} },
];

fn flip(blob: &mut [u8], from: usize, to: usize, at: usize) {
    blob[from + at % (to - from)] ^= 1 << (at / 7 % 8);
}

fn flip_text(blob: &mut [u8], at: usize) {
    let end = blob.len() - TAG_BYTES;
    flip(blob, TEXT_AT, end, at);
}

fn flip_tag(blob: &mut [u8], at: usize) {
    let end = blob.len();
    flip(blob, end - TAG_BYTES, end, at);
}

fn letter(at: usize) -> String {
    char::from(b'a' + u8::try_from(at % 25).unwrap()).to_string()
}

fn key() -> KeyRecord {
    let text = default_key_policy(ACCOUNT);
    let policy = PolicyPool::default().policy(&text, |text| Document::parse(text, Flavor::KeyPolicy)).unwrap();
    let id = KeyId::single(Region::parse("eu-central-1").unwrap(), Uuid::from_u128(7));
    let material = |byte: u8| {
        let secret = SecretHalf::read(KeyKind::SYMMETRIC, &[byte; 32]).unwrap();
        Arc::new(Material::new(MaterialId([byte; 32]), secret, 1, Some(RotationType::OnDemand)))
    };
    let account = AccountId::parse(ACCOUNT).unwrap();
    KeyRecord::new(id, account, KeyKind::SYMMETRIC, 1, (policy, Uuid::nil()), Some(material(2)))
        .with_former(vec![material(1)])
}

/// Nanoseconds of each group, in order of size.
fn measure(key: &KeyRecord, plaintext: &[u8]) -> Vec<Vec<u64>> {
    let usable = key.usable(1).unwrap().symmetric().unwrap();
    let context = Context::from([("tenant".to_owned(), "z".to_owned())]);
    let blob = usable.encrypt(plaintext, &context).unwrap();
    assert_eq!(ciphertext::parse_header(&blob).unwrap().material_id, Some(MaterialId([2; 32])));
    assert_eq!(blob.len(), TEXT_AT + plaintext.len() + TAG_BYTES);
    let mut times = vec![Vec::with_capacity(ROUNDS); GROUPS.len()];
    // A linear congruential generator; which bit and which turn need no better one.
    let mut random: u64 = 1;
    for _ in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(random >> 33).unwrap();
        for turn in 0..GROUPS.len() {
            let place = (turn * 7 + at) % GROUPS.len();
            let (mut blob, mut context) = (blob.clone(), context.clone());
            (GROUPS[place].damage)(&mut blob, &mut context, at);
            // Copies: a byte that was just written alone is slower to read with its neighbours, which is no finding.
            let (blob, context) = (black_box(blob.clone()), black_box(context.clone()));
            let start = Instant::now();
            let opened = black_box(usable.decrypt(black_box(&blob), black_box(&context)));
            let elapsed = start.elapsed();
            assert_eq!(opened.is_ok(), GROUPS[place].name == "opens", "{}", GROUPS[place].name);
            times[place].push(u64::try_from(elapsed.as_nanos()).unwrap());
        }
    }
    times.iter_mut().for_each(|group| group.sort_unstable());
    times
}

/// Mean without the slowest, median and 99th percentile.
#[allow(clippy::cast_precision_loss)]
fn figures(sorted: &[u64]) -> [f64; 3] {
    let kept = &sorted[..sorted.len() * (100 - CUT_PERCENT) / 100];
    let mean = kept.iter().sum::<u64>() as f64 / kept.len() as f64;
    [mean, sorted[sorted.len() / 2] as f64, sorted[sorted.len() * 99 / 100] as f64]
}

fn main() {
    let key = key();
    for length in [32, 4096] {
        let times = measure(&key, &vec![5; length]);
        let first = figures(&times[0]);
        println!("\nplaintext of {length} bytes; the first group: mean {:.0} ns\n", first[0]);
        println!("| what is wrong | mean | p50 | p99 |\n|---|---|---|---|");
        for (group, times) in GROUPS.iter().zip(&times) {
            let [mean, p50, p99] = figures(times);
            println!("| {} | {:.3} | {:.3} | {:.3} |", group.name, mean / first[0], p50 / first[1], p99 / first[2]);
        }
    }
}
