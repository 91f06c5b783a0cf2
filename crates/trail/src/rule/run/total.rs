//! One aggregate over a bucket whose events only come: what `threshold` folds over a window again and again, kept
//! event by event.

use super::threshold::{Argument, read_argument, write_argument};
use crate::rule::lower::Function;
use crate::rule::state::{Reader, StateError, Writer};
use datafusion::common::{HashSet, ScalarValue};

/// Most distinct values counted in a bucket; a limit above it is never met by count(DISTINCT ..).
const DISTINCT_MAX: usize = 65_536;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Total {
    Count(u64),
    Distinct(HashSet<[u8; 16]>),
    /// min, max, sum, bool_or and bool_and: null, or the value so far.
    Value(Argument),
}

impl Total {
    pub(super) fn new(function: Function) -> Self {
        match function {
            Function::CountAll | Function::Count => Self::Count(0),
            Function::CountDistinct => Self::Distinct(HashSet::new()),
            _ => Self::Value(Argument::Null),
        }
    }

    /// Adds an event's argument; None for count(*).
    pub(super) fn add(&mut self, function: Function, argument: Option<&Argument>) {
        if argument == Some(&Argument::Null) {
            return;
        }
        match (self, argument) {
            (Self::Count(count), _) => *count += 1,
            (Self::Distinct(hashes), Some(Argument::Hash(hash))) if hashes.len() < DISTINCT_MAX => {
                hashes.insert(*hash);
            }
            (Self::Value(so_far), Some(new)) => {
                if let Some(better) = combined(function, so_far, new) {
                    *so_far = better;
                }
            }
            _ => {}
        }
    }

    /// A count; 0 for what is none.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Count(count) => *count,
            Self::Distinct(hashes) => hashes.len() as u64,
            Self::Value(_) => 0,
        }
    }

    /// Lets go of distinct values that nobody will ask for again.
    pub(super) fn forget(&mut self) {
        if let Self::Distinct(hashes) = self {
            *hashes = HashSet::new();
        }
    }

    pub(super) fn scalar(&self) -> ScalarValue {
        match self {
            Self::Count(_) | Self::Distinct(_) => ScalarValue::Int64(i64::try_from(self.count()).ok()),
            Self::Value(Argument::Int(number)) => ScalarValue::Int64(Some(*number)),
            Self::Value(Argument::Text(text)) => ScalarValue::Utf8(Some(text.to_string())),
            Self::Value(Argument::Bool(truth)) => ScalarValue::Boolean(Some(*truth)),
            Self::Value(_) => ScalarValue::Null,
        }
    }

    pub(super) fn write(&self, to: &mut Writer) {
        match self {
            Self::Count(count) => to.u64(*count),
            Self::Distinct(hashes) => {
                let mut sorted: Vec<_> = hashes.iter().collect();
                sorted.sort_unstable();
                to.length(sorted.len());
                sorted.into_iter().for_each(|hash| to.u128(u128::from_be_bytes(*hash)));
            }
            Self::Value(value) => write_argument(value, to),
        }
    }

    pub(super) fn read(function: Function, from: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(match Self::new(function) {
            Self::Count(_) => Self::Count(from.u64()?),
            Self::Distinct(_) => {
                let hashes = (0..from.length()?).map(|_| Ok(from.u128()?.to_be_bytes()));
                Self::Distinct(hashes.collect::<Result<_, StateError>>()?)
            }
            Self::Value(_) => Self::Value(read_argument(from)?),
        })
    }
}

/// The value after `new`, if it changes.
fn combined(function: Function, so_far: &Argument, new: &Argument) -> Option<Argument> {
    let changed = match (so_far, new) {
        (Argument::Null, _) => new.clone(),
        (Argument::Int(old), Argument::Int(new)) => Argument::Int(match function {
            Function::Min => *old.min(new),
            Function::Max => *old.max(new),
            _ => old.saturating_add(*new),
        }),
        (Argument::Text(old), Argument::Text(text)) => match function {
            Function::Min if text < old => new.clone(),
            Function::Max if text > old => new.clone(),
            _ => return None,
        },
        (Argument::Bool(old), Argument::Bool(new)) => {
            Argument::Bool(if function == Function::BoolOr { *old || *new } else { *old && *new })
        }
        _ => return None,
    };
    Some(changed)
}
