//! How many bytes values take: what an array shows, not what its buffers hold, which others may share.

use arrow::array::{Array, ArrayRef, AsArray as _, OffsetSizeTrait};
use arrow::datatypes::DataType;

/// What says where a text or a list is; without it, millions of empty ones would count as nothing.
pub(super) const PLACE_BYTES: u64 = 16;
/// A value of fixed length, a truth value, NULL: rather more than they have, as functions handle them by wider indices.
const FIXED_BYTES_MIN: u64 = 8;

/// Bytes of all values.
pub(super) fn size_of(array: &dyn Array) -> u64 {
    let each = |bytes: u64| (array.len() as u64).saturating_mul(bytes);
    let places = each(PLACE_BYTES);
    match array.data_type() {
        DataType::Utf8 => places.saturating_add(span(array.as_string::<i32>().value_offsets()).1),
        DataType::LargeUtf8 => places.saturating_add(span(array.as_string::<i64>().value_offsets()).1),
        DataType::Binary => places.saturating_add(span(array.as_binary::<i32>().value_offsets()).1),
        DataType::LargeBinary => places.saturating_add(span(array.as_binary::<i64>().value_offsets()).1),
        DataType::Utf8View => places.saturating_add(array.as_string_view().lengths().map(u64::from).sum()),
        DataType::BinaryView => places.saturating_add(array.as_binary_view().lengths().map(u64::from).sum()),
        // Each value written out, as whatever takes them up may have it.
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) => each(longest_of(array)),
        kind if kind.is_nested() => places.saturating_add(sum(members(array).iter().map(|of| size_of(of)))),
        kind => each(kind.primitive_width().map_or_else(|| width(kind), |bytes| bytes as u64).max(FIXED_BYTES_MIN)),
    }
}

/// Bytes of the longest value, or somewhat more.
pub(super) fn longest_of(array: &dyn Array) -> u64 {
    let bytes = match array.data_type() {
        DataType::Utf8 => widest(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => widest(array.as_string::<i64>().value_offsets()),
        DataType::Binary => widest(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => widest(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => array.as_string_view().lengths().max().map_or(0, u64::from),
        DataType::BinaryView => array.as_binary_view().lengths().max().map_or(0, u64::from),
        DataType::Dictionary(..) => longest_of(array.as_any_dictionary().values()),
        DataType::Struct(_) => sum(array.as_struct().columns().iter().map(|column| longest_of(column))),
        DataType::RunEndEncoded(..) => sum(members(array).iter().map(|values| longest_of(values))),
        kind if kind.is_nested() => {
            return (0..array.len()).map(|row| size_of(&array.slice(row, 1))).max().unwrap_or(0);
        }
        _ => return if array.is_empty() { 0 } else { size_of(&array.slice(0, 1)) },
    };
    bytes.saturating_add(PLACE_BYTES)
}

/// The sum, or the greatest number there is.
pub(super) fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// What the values of a nested array are made of.
fn members(array: &dyn Array) -> Vec<ArrayRef> {
    fn of_list<O: OffsetSizeTrait>(offsets: &[O], values: &dyn Array) -> Vec<ArrayRef> {
        let (first, count) = span(offsets);
        vec![values.slice(first, usize::try_from(count).unwrap_or(usize::MAX))]
    }
    match array.data_type() {
        DataType::List(_) => of_list(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => of_list(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
        DataType::Map(..) => of_list(array.as_map().value_offsets(), array.as_map().entries()),
        DataType::FixedSizeList(..) => vec![array.as_fixed_size_list().values().clone()],
        DataType::Struct(_) => array.as_struct().columns().to_vec(),
        DataType::Union(fields, _) => fields.iter().map(|(id, _)| array.as_union().child(id).clone()).collect(),
        // No kind of array that our tables or functions give: its data counts whole, however little of it is shown.
        _ => array.to_data().child_data().iter().map(|data| arrow::array::make_array(data.clone())).collect(),
    }
}

/// Bytes of a value that has no width of a number's.
fn width(kind: &DataType) -> u64 {
    match kind {
        DataType::FixedSizeBinary(bytes) => u64::try_from(*bytes).unwrap_or(0),
        DataType::Boolean | DataType::Null => 1,
        _ => u64::MAX,
    }
}

/// Where values begin in the child, and how many of it they are.
fn span<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, u64) {
    let at = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    let (first, last) = (at(offsets.first()), at(offsets.last()));
    (first, last.saturating_sub(first) as u64)
}

fn widest<O: OffsetSizeTrait>(offsets: &[O]) -> u64 {
    offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_usize() as u64).max().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int8Array, Int32Array, ListArray, NullArray, RunArray,
        StringArray, StringViewArray, new_null_array,
    };
    use arrow::datatypes::{Field, Int32Type};
    use std::sync::Arc;

    #[test]
    fn values_without_a_byte_are_not_nothing() {
        let texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let empty: [ArrayRef; 6] = [
            Arc::new(NullArray::new(1_000)),
            Arc::new(BooleanArray::from(vec![true; 1_000])),
            Arc::new(Int8Array::from(vec![1; 1_000])),
            Arc::new(StringArray::from(vec![""; 1_000])),
            Arc::new(StringViewArray::from(vec![""; 1_000])),
            new_null_array(&texts, 1_000),
        ];
        for array in empty {
            assert!(size_of(&array) >= 8_000, "{}", array.data_type());
            assert_eq!(longest_of(&array), size_of(&array) / 1_000, "{}", array.data_type());
        }
        let row = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1); 1_000])]);
        assert_eq!(size_of(&row), 8_016);
    }

    #[test]
    fn a_part_of_an_array_has_its_part_of_the_bytes() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["ab", &"x".repeat(1_000), ""]));
        assert_eq!((size_of(&texts), longest_of(&texts)), (1_050, 1_016));
        assert_eq!(size_of(&texts.slice(0, 1)), 18);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![None; 9]), None, Some(vec![Some(7)])]);
        assert_eq!((size_of(&lists), longest_of(&lists)), (3 * 16 + 10 * 8, 16 + 9 * 8));
        assert_eq!(size_of(&lists.slice(1, 2)), 2 * 16 + 8);
        let fixed = FixedSizeBinaryArray::try_from_iter([[0_u8; 400]; 3].iter()).unwrap();
        assert_eq!((size_of(&fixed), longest_of(&fixed)), (1_200, 400));
    }

    #[test]
    fn what_is_said_once_for_many_rows_counts_for_each() {
        let (short, long) = ("a".to_owned(), "x".repeat(100_000));
        let dictionary: DictionaryArray<Int32Type> =
            (0..1_000).map(|n| if n == 9 { &*long } else { &*short }).collect();
        assert_eq!((longest_of(&dictionary), size_of(&dictionary)), (100_032, 100_032_000));
        let values = StringArray::from(vec![short, long]);
        let runs = RunArray::try_new(&Int32Array::from(vec![1, 1_000]), &values).unwrap();
        assert!(longest_of(&runs) >= 100_000 && size_of(&runs) >= 100_000_000);
    }
}
