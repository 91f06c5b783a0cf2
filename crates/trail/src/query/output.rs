//! Results as text: an aligned table for people, CSV and JSON lines for programs.
//!
//! Cells hold what callers sent (user agents, contexts), so the table shows control characters as escapes: a log reader's
//! terminal must not obey an attacker's bytes. CSV and JSON lines quote by their own rules and lose nothing.

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;

/// Rows whose widths decide the table's columns; later rows that are wider just stick out.
const MEASURED_ROWS: usize = 1_000;

/// How timestamps are written in the table and in CSV.
const TIMESTAMP: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// RFC 4180 with a header line; NULL is an empty field.
    Csv,
    /// One JSON object a line; NULL is written out.
    Jsonl,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(format!("format is table, csv or jsonl, not {text}")),
        }
    }
}

/// Why a result was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A column that has no text form.
    #[error("result cannot be formatted")]
    Format(#[from] ArrowError),
    /// The reader went away or the disk is full.
    #[error("result cannot be written")]
    Io(#[from] io::Error),
}

/// Writes batches as they come.
pub struct Output<W: Write> {
    out: W,
    format: Format,
    schema: SchemaRef,
    /// Table rows not written yet because widths are still being measured.
    held: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
    started: bool,
    rows: u64,
}

impl<W: Write> Output<W> {
    /// Writes to `out`, which should be buffered.
    pub fn new(out: W, format: Format, schema: SchemaRef) -> Self {
        Self { out, format, schema, held: Vec::new(), widths: None, started: false, rows: 0 }
    }

    /// Writes one batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.rows += batch.num_rows() as u64;
        match self.format {
            Format::Table => self.write_table(batch),
            Format::Csv => {
                let header = !std::mem::replace(&mut self.started, true);
                let builder =
                    csv::WriterBuilder::new().with_header(header).with_timestamp_tz_format(TIMESTAMP.to_owned());
                Ok(builder.build(&mut self.out).write(batch)?)
            }
            Format::Jsonl => {
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut self.out);
                writer.write(batch)?;
                Ok(writer.finish()?)
            }
        }
    }

    /// Writes what is held and the end; returns the number of rows.
    pub fn finish(mut self) -> Result<u64, OutputError> {
        self.end()?;
        Ok(self.rows)
    }

    /// Writes what is held and the end. Nothing may be written after it.
    pub(crate) fn end(&mut self) -> Result<(), OutputError> {
        match self.format {
            Format::Table => {
                self.release()?;
                let plural = if self.rows == 1 { "row" } else { "rows" };
                writeln!(self.out, "({} {plural})", self.rows)?;
            }
            Format::Csv if !self.started => {
                let empty = RecordBatch::new_empty(self.schema.clone());
                csv::WriterBuilder::new().with_header(true).build(&mut self.out).write(&empty)?;
            }
            Format::Csv | Format::Jsonl => {}
        }
        Ok(self.out.flush()?)
    }

    fn write_table(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        let options = FormatOptions::default().with_null("").with_timestamp_tz_format(Some(TIMESTAMP));
        let columns: Vec<ArrayFormatter<'_>> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            let cells = columns.iter().map(|column| printable(&column.value(row).to_string())).collect();
            match &self.widths {
                Some(widths) => write_row(&mut self.out, widths, &cells)?,
                None => self.held.push(cells),
            }
            if self.widths.is_none() && self.held.len() >= MEASURED_ROWS {
                self.release()?;
            }
        }
        Ok(())
    }

    /// Decides the widths and writes header and held rows.
    fn release(&mut self) -> Result<(), OutputError> {
        if self.widths.is_some() {
            return Ok(());
        }
        let header: Vec<String> = self.schema.fields().iter().map(|field| printable(field.name())).collect();
        let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
        for cells in &self.held {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        write_row(&mut self.out, &widths, &header)?;
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        writeln!(self.out, "{}", rule.join("-+-"))?;
        for cells in self.held.drain(..) {
            write_row(&mut self.out, &widths, &cells)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn write_row(out: &mut impl Write, widths: &[usize], cells: &Vec<String>) -> io::Result<()> {
    let mut line = String::new();
    for (index, (width, cell)) in widths.iter().zip(cells).enumerate() {
        if index > 0 {
            line.push_str(" | ");
        }
        line.push_str(cell);
        let padding = width.saturating_sub(cell.chars().count());
        line.extend(std::iter::repeat_n(' ', padding));
    }
    writeln!(out, "{}", line.trim_end())
}

/// Text without anything a terminal would obey: controls, and marks that turn the direction of reading.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if char.is_control() || turns {
            let _ = write!(shown, "{}", char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::schema::ZONE;
    use arrow::array::{BinaryArray, Int64Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        let time = TimestampMicrosecondArray::from(vec![1_767_614_400_000_000, 1_767_614_400_000_001]);
        RecordBatch::try_from_iter([
            ("seq", Arc::new(Int64Array::from(vec![1, 2])) as _),
            ("who", Arc::new(StringArray::from(vec![Some("a\u{1b}[31m\"b\",c"), None])) as _),
            ("at", Arc::new(time.with_timezone(ZONE)) as _),
            ("raw", Arc::new(BinaryArray::from(vec![b"\x01\xff".as_slice(), b""])) as _),
        ])
        .unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch]) -> String {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, format, batch().schema());
        for batch in batches {
            output.write(batch).unwrap();
        }
        output.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_table_is_aligned_and_shows_control_characters() {
        let expected = "\
seq | who                | at                          | raw
----+--------------------+-----------------------------+-----
1   | a\\u{1b}[31m\"b\",c | 2026-01-05T12:00:00.000000Z | 01ff
2   |                    | 2026-01-05T12:00:00.000001Z |
(2 rows)
";
        let shown = written(Format::Table, &[batch()]);
        assert!(!shown.contains('\u{1b}'));
        assert_eq!(shown.lines().count(), expected.lines().count());
        assert!(shown.contains("a\\u{1b}[31m"), "{shown}");
        assert!(shown.ends_with("(2 rows)\n"), "{shown}");
    }

    #[test]
    fn csv_has_one_header_and_quotes() {
        let shown = written(Format::Csv, &[batch(), batch()]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], "seq,who,at,raw");
        assert_eq!(lines[2], "2,,2026-01-05T12:00:00.000001Z,");
        assert!(lines[1].contains("\"\"b\"\""), "{shown}");
        assert_eq!(written(Format::Csv, &[]), "seq,who,at,raw\n");
    }

    #[test]
    fn json_lines_keep_nulls() {
        let shown = written(Format::Jsonl, &[batch()]);
        let rows: Vec<serde_json::Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["who"], "a\u{1b}[31m\"b\",c");
        assert_eq!(rows[1]["who"], serde_json::Value::Null);
        assert_eq!(rows[0]["raw"], "01ff");
        assert_eq!(written(Format::Jsonl, &[]), "");
    }
}
