//! The interactive shell of `keytrail sql`: lines that may go on until a semicolon, history, completion, and a few of
//! psql's backslash commands.
//!
//! Ctrl-C gives up the line or the running query, Ctrl-D leaves. An error is told and the shell goes on. What was typed is
//! kept in the user's own state folder, never in the data folder: others read that.

use super::execute;
use crate::cli::{Format, SqlArgs};
use crate::commands::query_log::ShellLog;
use crate::commands::{log, say};
use anyhow::Context;
use keytrail_trail::query::{self, Cancel, Limits, statements};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};
use std::path::PathBuf;
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Statements kept for another day.
const HISTORY_LINES_MAX: usize = 1_000;

/// Words that are no names.
const KEYWORDS: [&str; 41] = [
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CROSS",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FILTER",
    "FROM",
    "GROUP",
    "HAVING",
    "IN",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "SELECT",
    "THEN",
    "UNION",
    "WHEN",
    "WHERE",
    "WITH",
];

const HELP: &str = r"\d           the tables
\d TABLE     the columns of a table
\f FORMAT    how rows are printed from now on: table, csv or jsonl
\timing      say how long each statement took, or no longer
\q           leave; Ctrl-D does the same
Statements end with a semicolon. Tab completes names, Ctrl-R searches what was typed, Ctrl-C stops a query.";

type Lines = Editor<Names, DefaultHistory>;

/// What the shell remembers from one line to the next.
struct Shell<'a> {
    args: &'a SqlArgs,
    log: ShellLog,
    format: Format,
    timing: bool,
    /// Ctrl-C while a query runs. Listened to from the start: nothing may fall between a line and its query.
    interrupts: Signal,
}

/// Whether to read another line.
#[derive(PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

pub(super) async fn run(args: &SqlArgs) -> anyhow::Result<()> {
    let mut lines = editor(args).await?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none the first time.
        lines.load_history(path).ok();
    }
    say(r"Read-only SQL over the audit log. \? for help, \q to leave.");
    let interrupts = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut shell =
        Shell { args, log: ShellLog::open(&args.data.data)?, format: args.format, timing: false, interrupts };
    loop {
        let (read, back) =
            tokio::task::spawn_blocking(move || (lines.readline("keytrail> "), lines)).await.context("read a line")?;
        lines = back;
        let line = match read {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("read a line"),
        };
        if line.trim().is_empty() {
            continue;
        }
        lines.add_history_entry(line.as_str()).ok();
        if shell.obey(&line).await == Next::Leave {
            break;
        }
    }
    if let Some(path) = &history {
        lines.save_history(path).with_context(|| format!("keep what was typed in {}", path.display()))?;
    }
    Ok(())
}

impl Shell<'_> {
    async fn obey(&mut self, line: &str) -> Next {
        let line = line.trim();
        match line.strip_prefix('\\') {
            Some(command) => self.command(command.trim_end_matches(';')).await,
            None => {
                match statements::split(line) {
                    Ok(several) => self.statements(&several).await,
                    Err(error) => say(&format!("error: {error}")),
                }
                Next::Line
            }
        }
    }

    async fn command(&mut self, command: &str) -> Next {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("q", "") => return Next::Leave,
            ("?", "") => say(HELP),
            ("timing", "") => {
                self.timing = !self.timing;
                say(if self.timing { "timing is on" } else { "timing is off" });
            }
            ("f", format) => match <Format as clap::ValueEnum>::from_str(format, true) {
                Ok(format) => self.format = format,
                Err(_) => say("error: the format is table, csv or jsonl"),
            },
            ("d", "") => {
                let tables = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
                self.statements(&[tables.to_owned()]).await;
            }
            ("d", table) => {
                let columns =
                    "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = ";
                self.statements(&[format!("{columns}{} ORDER BY ordinal_position", log::quoted(table))]).await;
            }
            _ => say(r"error: no such command; \? lists them"),
        }
        Next::Line
    }

    /// Runs them in order; the first that fails ends the line.
    async fn statements(&mut self, statements: &[String]) {
        for statement in statements {
            let started = Instant::now();
            let cancel = Cancel::new();
            let mut running = std::pin::pin!(execute(self.args, &mut self.log, statement, self.format, cancel.clone()));
            let done = loop {
                tokio::select! {
                    done = &mut running => break done,
                    _ = self.interrupts.recv() => cancel.cancel(),
                }
            };
            if let Err(error) = done {
                say(&format!("error: {}", query::printable(&keytrail_kms::describe(error.as_ref()))));
                return;
            }
            if self.timing {
                say(&format!("{:.3} ms", started.elapsed().as_secs_f64() * 1e3));
            }
        }
    }
}

async fn editor(args: &SqlArgs) -> anyhow::Result<Lines> {
    let snapshot = log::snapshot(&args.data.data).await?;
    let session = query::session(&snapshot, &Limits::default(), None).context("open a session")?;
    let mut words = query::names(&session).await;
    words.extend(KEYWORDS.iter().map(|&word| word.to_owned()));
    let config = Config::builder().max_history_size(HISTORY_LINES_MAX).context("bound the history")?;
    let mut lines = Lines::with_config(config.history_ignore_space(true).build()).context("open the terminal")?;
    lines.set_helper(Some(Names(words)));
    Ok(lines)
}

/// `$XDG_STATE_HOME/keytrail/sql_history`, or below `~/.local/state`; None without a home.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("keytrail");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("sql_history"))
}

/// Completes names and decides whether a line is a whole.
struct Names(Vec<String>);

impl Helper for Names {}
impl Highlighter for Names {}
impl Hinter for Names {
    type Hint = String;
}

impl Completer for Names {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..at).unwrap_or_default();
        let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |found| {
            found + before.get(found..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
        });
        let begun = before.get(start..).unwrap_or_default();
        if begun.is_empty() {
            return Ok((at, Vec::new()));
        }
        let fits = |word: &&String| word.get(..begun.len()).is_some_and(|head| head.eq_ignore_ascii_case(begun));
        let found = self.0.iter().filter(fits);
        Ok((start, found.map(|word| Pair { display: word.clone(), replacement: word.clone() }).collect()))
    }
}

impl Validator for Names {
    fn validate(&self, line: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = line.input().trim_start();
        let whole = text.starts_with('\\') || statements::are_closed(text);
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustyline::history::MemHistory;

    #[test]
    fn names_are_completed_from_where_the_word_begins() {
        let names = Names(["event_name", "event_time", "events", "SELECT"].map(str::to_owned).to_vec());
        let history = MemHistory::new();
        let complete = |line: &str| {
            let (start, found) = names.complete(line, line.len(), &rustyline::Context::new(&history)).unwrap();
            (start, found.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>())
        };
        assert_eq!(complete("sel"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(complete("SELECT e.event_t"), (9, vec!["event_time".to_owned()]));
        assert_eq!(complete("SELECT 'é'||Event").1.len(), 3);
        assert_eq!(complete("SELECT "), (7, Vec::new()));
    }
}
