//! Rows in order: what the kinds that learn see first must have happened first.
//!
//! Holds matching rows back until nothing earlier can come, then releases them by time and seq. In an own log that is
//! read in order nothing waits: its records are settled as they come. Never reorders what it has released; beyond its
//! bound the oldest rows go out unsettled.

use super::settled::Settled;
use super::{Matches, RuleFailure};
use crate::rule::state::{Reader, StateError, Writer};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Most rows held per rule and log: a quarter of an hour of an import at 70 a second, some 20 MB of a few columns.
const HELD_ROWS_MAX: usize = 65_536;

/// The rows of one rule in one log that wait.
#[derive(Debug, Default)]
pub(crate) struct Ordered {
    held: Option<Matches>,
}

impl Ordered {
    /// Takes what arrived.
    pub(crate) fn arrive(&mut self, arrived: Option<Matches>) -> Result<(), RuleFailure> {
        self.held = merged(self.held.take(), arrived)?;
        Ok(())
    }

    /// Gives what is settled, in order of time and seq.
    pub(crate) fn release(&mut self, settled: Settled) -> Result<Option<Matches>, RuleFailure> {
        let Some(all) = self.held.take() else { return Ok(None) };
        let rows = all.times_us.len();
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_by_key(|&row| (all.times_us[row], all.seqs[row]));
        let covered = order.partition_point(|&row| settled.covers(all.times_us[row], all.seqs[row]));
        let (out, kept) = order.split_at(covered.max(rows.saturating_sub(HELD_ROWS_MAX)));
        if kept.is_empty() && order.is_sorted() {
            return Ok(Some(all));
        }
        if out.is_empty() {
            self.held = Some(all.kept()?);
            return Ok(None);
        }
        if !kept.is_empty() {
            self.held = Some(all.chosen(kept).kept()?);
        }
        Ok(Some(all.chosen(out)))
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        let Some(held) = &self.held else { return to.length(0) };
        to.length(held.times_us.len());
        held.times_us.iter().for_each(|&time_us| to.i64(time_us));
        held.seqs.iter().for_each(|&seq| to.u64(seq));
        let batch = held.batch().expect("what waits was copied whole");
        to.bytes(&stream(&batch).expect("columns of the lake can be written to memory"));
    }

    /// `schema` is that of the columns the rule reads.
    pub(crate) fn read(schema: &SchemaRef, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let rows = from.length()?;
        if rows == 0 {
            return Ok(Self::default());
        }
        let times_us = (0..rows).map(|_| from.i64()).collect::<Result<Vec<_>, _>>()?;
        let seqs = (0..rows).map(|_| from.u64()).collect::<Result<Vec<_>, _>>()?;
        let mut reader = StreamReader::try_new(from.bytes()?, None).map_err(|_| StateError::Damaged)?;
        let batch = reader.next().and_then(Result::ok).ok_or(StateError::Damaged)?;
        if batch.num_rows() != rows || batch.schema_ref().fields() != schema.fields() {
            return Err(StateError::Damaged);
        }
        Ok(Self { held: Some(Matches::all(batch, times_us, seqs)) })
    }
}

fn merged(held: Option<Matches>, arrived: Option<Matches>) -> Result<Option<Matches>, RuleFailure> {
    let (mut held, arrived) = match (held, arrived) {
        (Some(held), Some(arrived)) => (held, arrived),
        (one, other) => return Ok(one.or(other)),
    };
    let (first, second) = (held.batch()?, arrived.batch()?);
    held.times_us.extend(arrived.times_us);
    held.seqs.extend(arrived.seqs);
    Ok(Some(Matches::all(concat_batches(&second.schema(), [&first, &second])?, held.times_us, held.seqs)))
}

fn stream(batch: &RecordBatch) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    writer.into_inner()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]))
    }

    fn matches(times_us: &[i64]) -> Matches {
        let column: ArrayRef = Arc::new(Int64Array::from(times_us.to_vec()));
        let batch = RecordBatch::try_new(schema(), vec![column]).unwrap();
        Matches::all(batch, times_us.to_vec(), times_us.iter().map(|&time_us| time_us.unsigned_abs()).collect())
    }

    fn released(ordered: &mut Ordered, arrived: Option<Matches>, settled_us: i64) -> Vec<i64> {
        ordered.arrive(arrived).unwrap();
        let released = ordered.release(Settled { us: settled_us, below_seq: 0 }).unwrap();
        released.map(|matches| matches.times_us).unwrap_or_default()
    }

    #[test]
    fn rows_come_out_in_order_once_they_are_settled_also_over_a_restart() {
        let mut ordered = Ordered::default();
        assert_eq!(released(&mut ordered, Some(matches(&[5, 3, 9])), 5), [3], "another row at 5 may come");
        assert_eq!(released(&mut ordered, None, 5), [0_i64; 0]);
        let mut writer = Writer::default();
        ordered.write(&mut writer);
        let mut again = Ordered::read(&schema(), &mut Reader::new(&writer.0)).unwrap();
        let mut second = Writer::default();
        again.write(&mut second);
        assert_eq!(second.0, writer.0);
        again.arrive(Some(matches(&[7, 6]))).unwrap();
        let out = again.release(Settled { us: 0, below_seq: 8 }).unwrap().unwrap();
        assert_eq!((&out.times_us, &out.seqs), (&vec![5, 6, 7], &vec![5, 6, 7]));
        assert_eq!(out.batch().unwrap(), matches(&[5, 6, 7]).batch().unwrap());
        assert_eq!(released(&mut again, None, 10), [9]);
        for cut in 0..writer.0.len() {
            assert!(Ordered::read(&schema(), &mut Reader::new(&writer.0[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_out_unsettled() {
        let many: Vec<i64> = (0..70_000).collect();
        let mut ordered = Ordered::default();
        assert_eq!(released(&mut ordered, Some(matches(&many)), -1), many[..70_000 - HELD_ROWS_MAX]);
    }
}
