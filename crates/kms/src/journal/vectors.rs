//! Holds docs/chain.md to its word: every number in its vectors block is computed here again.
//!
//! When a format changes on purpose, the failing test prints the block that belongs into the page.

use super::batch::BatchBuffer;
use super::frame::Frame;
use super::{Chain, head, segment};
use crate::chain::leaf::{self, Kind, Leaf, LogId, Salt};
use crate::chain::{Checkpoint, SigningKey, Tree};
use crate::signer::SignedHead;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use std::convert::Infallible;
use std::fmt::Write;

const PAGE: &str = include_str!("../../../../docs/chain.md");
const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

fn frames() -> Vec<Frame> {
    let mut chain = Chain::genesis(LogId::of_origin(ORIGIN));
    let mut frames = Vec::new();
    for (seq, kind) in [(0_u64, Kind::EpochStart), (1, Kind::Event), (2, Kind::Event)] {
        let payload = Bytes::from(format!("{{\"n\":{seq}}}"));
        let salt: Salt = std::array::from_fn(|index| u8::try_from(16 * seq + index as u64).unwrap());
        let leaf = Leaf {
            log: chain.log,
            epoch: 1,
            seq,
            kind,
            time_us: 1_767_614_400_000_000 + seq,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: leaf::payload_digest(&salt, &payload),
            prev: chain.link,
        };
        let frame = Frame { leaf: leaf.encode(), salt, payload };
        chain.accept(&frame).unwrap();
        frames.push(frame);
    }
    frames
}

fn vectors() -> String {
    let mut out = String::new();
    let mut put = |name: &str, value: String| writeln!(out, "{name} = {value}").unwrap();
    let log = LogId::of_origin(ORIGIN);
    put("origin", ORIGIN.to_owned());
    put("log id", log.to_string());
    let mut tree = Tree::new();
    for (seq, frame) in frames().iter().enumerate() {
        put(&format!("payload {seq}"), String::from_utf8(frame.payload.to_vec()).unwrap());
        put(&format!("salt {seq}"), hex::encode(frame.salt));
        put(&format!("leaf {seq}"), hex::encode(frame.leaf));
        put(&format!("link {seq}"), frame.link().to_string());
        put(&format!("leaf hash {seq}"), frame.leaf_hash().to_string());
        tree.push(frame.leaf_hash());
        put(&format!("root at size {}", seq + 1), tree.root().to_string());
    }
    let proof = tree.inclusion_proof(1, 3, |_| Ok::<_, Infallible>(Vec::new())).unwrap();
    put("proof of seq 1 at size 3", proof.hashes.iter().map(hex::encode).collect::<Vec<_>>().join(" "));

    let key = SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap();
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 3, root: tree.root() };
    put("key seed", hex::encode([1; 32]));
    put("vkey", key.verify_key().to_string());
    put("checkpoint in base64", BASE64.encode(key.sign(&checkpoint).unwrap()));

    put("segment header, 72 bytes", hex::encode(&segment::header(log, 0, 64 * 1024 * 1024)[..72]));
    let mut buffer = BatchBuffer::default();
    buffer.clear();
    frames().iter().for_each(|frame| buffer.push(&frame.leaf, &frame.salt, &frame.payload));
    put("batch header, 128 bytes", hex::encode(&buffer.close(0, 0, [0; 32]).1[..128]));
    put("journal/head at 3", hex::encode(head::encode(3)));
    put("checkpoints/head at 3", hex::encode(SignedHead { size: 3, root: tree.root() }.encode()));
    out
}

#[test]
fn the_page_has_the_numbers_that_the_code_computes() {
    let block = PAGE.split("```vectors\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    assert!(block == vectors(), "docs/chain.md should say:\n{}", vectors());
}
