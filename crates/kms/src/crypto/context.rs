//! The canonical form of an encryption context: the additional data that binds a ciphertext to its context.
//!
//! Pairs sorted by the bytes of their keys, each text behind its length, the count in front: no two different contexts
//! have the same form. An absent context is the empty one, as at AWS. Values are never changed: no trimming, no case
//! folding, no Unicode normalisation.

use std::collections::BTreeMap;

/// Largest encryption context in bytes of keys and values together: AWS's limit.
pub const CONTEXT_BYTES_MAX: usize = 8192;

/// Whether a context may be used: no empty key, and not above [`CONTEXT_BYTES_MAX`].
pub fn is_acceptable(context: &BTreeMap<String, String>) -> bool {
    let bytes: usize = context.iter().map(|(key, value)| key.len() + value.len()).sum();
    bytes <= CONTEXT_BYTES_MAX && context.keys().all(|key| !key.is_empty())
}

/// Appends the canonical form.
pub(super) fn push_canonical(out: &mut Vec<u8>, context: &BTreeMap<String, String>) {
    push_u32(out, context.len());
    // A BTreeMap of strings iterates in the order of their bytes.
    for (key, value) in context {
        push_u32(out, key.len());
        out.extend_from_slice(key.as_bytes());
        push_u32(out, value.len());
        out.extend_from_slice(value.as_bytes());
    }
}

fn push_u32(out: &mut Vec<u8>, length: usize) {
    // Contexts are bounded by CONTEXT_BYTES_MAX long before this can saturate.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(context: &BTreeMap<String, String>) -> Vec<u8> {
        let mut out = Vec::new();
        push_canonical(&mut out, context);
        out
    }

    proptest! {
        #[test]
        fn different_contexts_differ(
            a in proptest::collection::btree_map("[ab]{1,3}", "[ab]{0,3}", 0..4),
            b in proptest::collection::btree_map("[ab]{1,3}", "[ab]{0,3}", 0..4),
        ) {
            prop_assert_eq!(a == b, canonical(&a) == canonical(&b));
        }
    }

    #[test]
    fn limits() {
        let of = |key: &str, length: usize| BTreeMap::from([(key.to_owned(), "v".repeat(length))]);
        assert!(is_acceptable(&BTreeMap::new()) && is_acceptable(&of("k", 8191)));
        assert!(!is_acceptable(&of("k", 8192)) && !is_acceptable(&of("", 1)));
    }
}
