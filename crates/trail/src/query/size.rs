//! How many bytes values have: what an array shows, not what its buffers hold, which others may share.

use arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait};
use arrow::datatypes::{DataType, UnionMode};

/// Bytes of all values.
pub(super) fn size_of(array: &dyn Array) -> u64 {
    let columns = |columns: &[ArrayRef]| columns.iter().map(|column| size_of(column)).sum();
    match array.data_type() {
        DataType::Utf8 => span(array.as_string::<i32>().value_offsets()).1,
        DataType::LargeUtf8 => span(array.as_string::<i64>().value_offsets()).1,
        DataType::Binary => span(array.as_binary::<i32>().value_offsets()).1,
        DataType::LargeBinary => span(array.as_binary::<i64>().value_offsets()).1,
        DataType::Utf8View => array.as_string_view().lengths().map(u64::from).sum(),
        DataType::BinaryView => array.as_binary_view().lengths().map(u64::from).sum(),
        DataType::List(_) => list(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => list(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
        DataType::Map(..) => list(array.as_map().value_offsets(), array.as_map().entries()),
        DataType::FixedSizeList(..) => size_of(array.as_fixed_size_list().values()),
        DataType::Struct(_) => columns(array.as_struct().columns()),
        DataType::Union(fields, UnionMode::Sparse) => {
            let union = array.as_union();
            fields.iter().map(|(id, _)| size_of(union.child(id))).sum()
        }
        _ => array.to_data().get_slice_memory_size().map_or(u64::MAX, |bytes| bytes as u64),
    }
}

/// Bytes of the longest value, or somewhat more.
pub(super) fn longest_of(array: &dyn Array) -> u64 {
    let each = || (0..array.len()).map(|row| size_of(&array.slice(row, 1))).max().unwrap_or(0);
    match array.data_type() {
        DataType::Utf8 => widest(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => widest(array.as_string::<i64>().value_offsets()),
        DataType::Binary => widest(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => widest(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => array.as_string_view().lengths().max().map_or(0, u64::from),
        DataType::BinaryView => array.as_binary_view().lengths().max().map_or(0, u64::from),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| longest_of(column)).sum(),
        kind if kind.is_nested() => each(),
        _ => size_of(array).div_ceil(array.len().max(1) as u64),
    }
}

/// Where values begin in the child, and how many of it they are.
fn span<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, u64) {
    let at = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    let (first, last) = (at(offsets.first()), at(offsets.last()));
    (first, last.saturating_sub(first) as u64)
}

fn list<O: OffsetSizeTrait>(offsets: &[O], values: &dyn Array) -> u64 {
    let (first, count) = span(offsets);
    let own = size_of_val(offsets) as u64;
    own.saturating_add(usize::try_from(count).map_or(u64::MAX, |count| size_of(&values.slice(first, count))))
}

fn widest<O: OffsetSizeTrait>(offsets: &[O]) -> u64 {
    offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_usize() as u64).max().unwrap_or(0)
}
