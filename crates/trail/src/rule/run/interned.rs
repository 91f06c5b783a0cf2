//! The values of a text column of a batch, each made into something once however often it occurs.

use arrow::array::{Array as _, StringArray};
use datafusion::common::HashMap;

/// Number of a row without a value.
const NONE: u32 = u32::MAX;

/// What each row's value was made into.
pub(super) struct Interned<T> {
    /// For each row, which of the values it has.
    numbers: Vec<u32>,
    values: Vec<T>,
}

impl<T> Interned<T> {
    pub(super) fn of(column: &StringArray, made: impl Fn(&str) -> T) -> Self {
        let mut known: HashMap<&str, u32> = HashMap::new();
        let (mut numbers, mut values) = (Vec::with_capacity(column.len()), Vec::new());
        for text in column {
            numbers.push(text.map_or(NONE, |text| {
                *known.entry(text).or_insert_with(|| {
                    values.push(made(text));
                    u32::try_from(values.len() - 1).unwrap_or(NONE)
                })
            }));
        }
        Self { numbers, values }
    }

    /// None if the row has no value.
    pub(super) fn get(&self, row: usize) -> Option<&T> {
        self.values.get(self.numbers[row] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_value() {
        let column = StringArray::from(vec![Some("b"), None, Some("a"), Some("b"), Some("")]);
        let interned = Interned::of(&column, str::to_owned);
        assert_eq!(interned.values, ["b", "a", ""]);
        let values: Vec<Option<&str>> = (0..5).map(|row| interned.get(row).map(String::as_str)).collect();
        assert_eq!(values, column.iter().collect::<Vec<_>>());
    }
}
