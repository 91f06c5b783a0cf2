//! The recursions of RFC 6962 over complete nodes, shared by whoever keeps nodes: the tree in memory and tiles.
//!
//! `node(level, index)` gives the hash over the leaves from `index << level` up to `(index + 1) << level`. Nothing here
//! is checked: a proof made of wrong nodes does not verify.

use super::leaf::sha256;

/// A hash in the tree.
pub(crate) type Hash = [u8; 32];

/// RFC 6962 interior node: SHA-256(0x01 || left || right).
pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// Largest power of two below `count`, which is at least 2.
pub(super) fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// MTH over hashes that stand side by side on one level; SHA-256 of nothing for none.
pub(crate) fn hash_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => sha256(&[]),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&hash_of(left), &hash_of(right))
        }
    }
}

/// MTH(D[start..end]); `start` is a multiple of the power of two at or above `end - start`.
pub(crate) fn range<E>(start: u64, end: u64, node: &mut impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let count = end - start;
    if count == 0 {
        return Ok(sha256(&[]));
    }
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return node(level, start >> level);
    }
    let middle = start + split(count);
    Ok(node_hash(&range(start, middle, node)?, &range(middle, end, node)?))
}

/// PATH(seq, D[start..end]), from the leaf upwards.
pub(crate) fn inclusion<E>(
    seq: u64,
    start: u64,
    end: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    if end - start <= 1 {
        return Ok(Vec::new());
    }
    let middle = start + split(end - start);
    let (mut hashes, sibling) = if seq < middle {
        (inclusion(seq, start, middle, node)?, range(middle, end, node)?)
    } else {
        (inclusion(seq, middle, end, node)?, range(start, middle, node)?)
    };
    hashes.push(sibling);
    Ok(hashes)
}

/// PROOF(old, D[0..new]), for 0 < `old` <= `new`.
pub(crate) fn consistency<E>(
    old: u64,
    new: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    subproof(old, 0, new, true, node)
}

/// SUBPROOF of RFC 6962; `whole` says that the old tree began where this part does and is known to the verifier.
fn subproof<E>(
    old: u64,
    start: u64,
    end: u64,
    whole: bool,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    if old == end {
        return if whole { Ok(Vec::new()) } else { Ok(vec![range(start, end, node)?]) };
    }
    let middle = start + split(end - start);
    let (mut hashes, sibling) = if old <= middle {
        (subproof(old, start, middle, whole, node)?, range(middle, end, node)?)
    } else {
        (subproof(old, middle, end, false, node)?, range(start, middle, node)?)
    };
    hashes.push(sibling);
    Ok(hashes)
}
