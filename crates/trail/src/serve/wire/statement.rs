//! What a client's text asks for: its statements, and of each whether it is a query or one of the few commands that
//! drivers send around queries. Those are told apart by their words alone and change nothing but the connection's settings;
//! everything else goes to the gate, which lets queries through.

use super::error::WireError;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// One statement of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) command: Command,
    /// As the client wrote it.
    pub(super) text: String,
    /// Characters of the whole text before it, for positions in errors.
    pub(super) offset_chars: usize,
}

/// What it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To be planned and judged.
    Query,
    Begin,
    Commit,
    Rollback,
    /// SAVEPOINT, RELEASE, ROLLBACK TO: with nothing to undo they hold by themselves. The completion tag.
    Savepoint(&'static str),
    Set(String, String),
    Show(String),
    /// One, or all.
    Reset(Option<String>),
    Discard,
    /// One, or all.
    Deallocate(Option<String>),
    Declare {
        name: String,
        hold: bool,
        query: String,
    },
    Fetch {
        name: String,
        rows: Option<u64>,
        moves: bool,
    },
    /// One, or all.
    Close(Option<String>),
    /// Nothing to do; the completion tag.
    Nothing(&'static str),
}

/// Splits a text at its semicolons; comments and empty statements are left out.
pub(super) fn statements(text: &str) -> Result<Vec<Statement>, WireError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
    let tokens =
        tokens.map_err(|error| WireError::syntax(error.message, Some(chars_before(text, error.location) + 1)))?;
    let mut found = Vec::new();
    let mut rest = tokens.as_slice();
    while !rest.is_empty() {
        let end = rest.iter().position(|token| token.token == Token::SemiColon).unwrap_or(rest.len());
        let (one, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let words: Vec<&TokenWithSpan> =
            one.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect();
        let (Some(first), Some(last)) = (words.first(), words.last()) else { continue };
        let offset_chars = chars_before(text, first.span.start);
        let end_chars = chars_before(text, last.span.end);
        let own: String = text.chars().skip(offset_chars).take(end_chars.saturating_sub(offset_chars)).collect();
        let tokens: Vec<&Token> = words.iter().map(|word| &word.token).collect();
        let body = |from: usize| {
            let start = words.get(from).map_or(end_chars, |word| chars_before(text, word.span.start));
            text.chars().skip(start).take(end_chars.saturating_sub(start)).collect::<String>()
        };
        let command = command(&tokens, body)?;
        found.push(Statement { command, text: own, offset_chars });
    }
    Ok(found)
}

/// Characters before a place that the tokenizer counts in lines and columns from 1.
pub(super) fn chars_before(text: &str, at: Location) -> usize {
    let line = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let before: usize = text.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    before + usize::try_from(at.column.saturating_sub(1)).unwrap_or(0)
}

fn command(tokens: &[&Token], body: impl Fn(usize) -> String) -> Result<Command, WireError> {
    let words: Vec<String> = tokens.iter().map(|token| upper(token)).collect();
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let name = |at: usize| tokens.get(at).map(|token| folded(token));
    Ok(match word(0) {
        "BEGIN" => Command::Begin,
        "START" if word(1) == "TRANSACTION" => Command::Begin,
        "COMMIT" | "END" if word(1) != "PREPARED" => Command::Commit,
        "ROLLBACK" | "ABORT" if words.iter().any(|word| word == "TO") => Command::Savepoint("ROLLBACK"),
        "ROLLBACK" | "ABORT" if word(1) != "PREPARED" => Command::Rollback,
        "SAVEPOINT" => Command::Savepoint("SAVEPOINT"),
        "RELEASE" => Command::Savepoint("RELEASE"),
        "SET" => set(&words, tokens)?,
        "SHOW" if words.len() >= 2 && !matches!(word(1), "TABLES" | "COLUMNS" | "FUNCTIONS" | "CREATE") => {
            Command::Show(setting_name(&words, 1).0)
        }
        "RESET" if word(1) == "ALL" => Command::Reset(None),
        "RESET" => Command::Reset(Some(setting_name(&words, 1).0)),
        "DISCARD" if matches!(word(1), "ALL" | "PLANS" | "TEMP" | "TEMPORARY" | "SEQUENCES") => Command::Discard,
        "DEALLOCATE" => {
            let at = if word(1) == "PREPARE" { 2 } else { 1 };
            Command::Deallocate(if word(at) == "ALL" { None } else { name(at) })
        }
        "UNLISTEN" => Command::Nothing("UNLISTEN"),
        "CLOSE" => Command::Close(if word(1) == "ALL" { None } else { name(1) }),
        "DECLARE" => declare(&words, name(1), body)?,
        "FETCH" => fetch(&words, tokens, false)?,
        "MOVE" => fetch(&words, tokens, true)?,
        _ => Command::Query,
    })
}

/// SET [SESSION|LOCAL] name {=|TO} value; also its forms with words of their own.
fn set(words: &[String], tokens: &[&Token]) -> Result<Command, WireError> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let at = if matches!(word(1), "SESSION" | "LOCAL") && word(2) != "AUTHORIZATION" { 2 } else { 1 };
    match (word(at), word(at + 1)) {
        ("TRANSACTION", _) | ("CHARACTERISTICS", _) => return Ok(Command::Nothing("SET")),
        ("NAMES", _) => return Ok(Command::Set("client_encoding".to_owned(), value(tokens, at + 1))),
        ("TIME", "ZONE") => return Ok(Command::Set("timezone".to_owned(), value(tokens, at + 2))),
        ("ROLE" | "SESSION", _) => return Err(WireError::refused(format!("SET {}", word(at)))),
        _ => {}
    }
    let (name, after) = setting_name(words, at);
    if !matches!(word(after), "=" | "TO") {
        return Err(WireError::syntax(format!("SET {name} needs = or TO and a value"), None));
    }
    Ok(Command::Set(name, value(tokens, after + 1)))
}

/// A name, which may have points in it, in lower case, and where it ends.
fn setting_name(words: &[String], from: usize) -> (String, usize) {
    let mut name = words.get(from).map(|word| word.to_lowercase()).unwrap_or_default();
    let mut at = from + 1;
    while words.get(at).map(String::as_str) == Some(".") {
        name.push('.');
        name.push_str(&words.get(at + 1).map(|word| word.to_lowercase()).unwrap_or_default());
        at += 2;
    }
    if name == "transaction" && words.get(at).map(String::as_str) == Some("ISOLATION") {
        return ("transaction_isolation".to_owned(), at + 2);
    }
    if name == "time" && words.get(at).map(String::as_str) == Some("ZONE") {
        return ("timezone".to_owned(), at + 1);
    }
    (name, at)
}

/// All tokens from there on as one text, quotes taken off.
fn value(tokens: &[&Token], from: usize) -> String {
    let parts = tokens.iter().skip(from).map(|token| match token {
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
        Token::Word(word) => word.value.clone(),
        other => other.to_string(),
    });
    parts.collect()
}

/// `DECLARE name [BINARY] [INSENSITIVE] [[NO] SCROLL] CURSOR [WITH|WITHOUT HOLD] FOR query`
fn declare(words: &[String], name: Option<String>, body: impl Fn(usize) -> String) -> Result<Command, WireError> {
    let found = words.iter().position(|word| word == "FOR");
    let cursor = words.iter().position(|word| word == "CURSOR");
    let (Some(name), Some(cursor), Some(at)) = (name, cursor, found) else {
        return Err(WireError::syntax("DECLARE needs a name, CURSOR and FOR with a query".to_owned(), None));
    };
    let options = words.get(2..cursor).unwrap_or_default();
    if options.iter().any(|word| word == "BINARY") {
        return Err(WireError::unsupported("binary cursors; ask for binary results where rows are fetched".to_owned()));
    }
    if options.ends_with(&["SCROLL".to_owned()]) && !options.iter().any(|word| word == "NO") {
        return Err(WireError::unsupported("cursors that scroll back".to_owned()));
    }
    let hold = words.get(cursor..at).unwrap_or_default().windows(2).any(|pair| pair == ["WITH", "HOLD"]);
    Ok(Command::Declare { name, hold, query: body(at + 1) })
}

/// `{FETCH|MOVE} [NEXT | [FORWARD] [ALL | count]] [FROM|IN] name`
fn fetch(words: &[String], tokens: &[&Token], moves: bool) -> Result<Command, WireError> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut at = 1;
    if matches!(word(at), "BACKWARD" | "PRIOR" | "FIRST" | "LAST" | "ABSOLUTE" | "RELATIVE") {
        return Err(WireError::unsupported("cursors that scroll back".to_owned()));
    }
    let mut rows = Some(1);
    if matches!(word(at), "NEXT" | "FORWARD") {
        at += 1;
    }
    if word(at) == "ALL" {
        (rows, at) = (None, at + 1);
    } else if let Some(Token::Number(number, _)) = tokens.get(at) {
        rows = Some(number.parse().map_err(|_| WireError::syntax(format!("{number} is no number of rows"), None))?);
        at += 1;
    } else if matches!(tokens.get(at), Some(Token::Minus)) {
        return Err(WireError::unsupported("cursors that scroll back".to_owned()));
    }
    if matches!(word(at), "FROM" | "IN") {
        at += 1;
    }
    match tokens.get(at) {
        Some(token @ Token::Word(_)) if tokens.len() == at + 1 => {
            Ok(Command::Fetch { name: folded(token), rows, moves })
        }
        _ => Err(WireError::syntax("a cursor's name is missing".to_owned(), None)),
    }
}

fn upper(token: &Token) -> String {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_uppercase(),
        Token::Word(word) => word.value.clone(),
        other => other.to_string(),
    }
}

/// A name as PostgreSQL folds it.
fn folded(token: &Token) -> String {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
        Token::Word(word) => word.value.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<Command> {
        statements(text).unwrap().into_iter().map(|statement| statement.command).collect()
    }

    #[test]
    fn a_text_is_split_at_its_own_semicolons() {
        let found = statements("SELECT ';' /* ; */ ;; -- ;\n  SELECT \"a;b\"; ").unwrap();
        assert_eq!(found.iter().map(|one| one.text.as_str()).collect::<Vec<_>>(), ["SELECT ';'", "SELECT \"a;b\""]);
        assert_eq!(found[1].offset_chars, 29);
        for empty in ["", " ; ;", "-- ping", "/* ping */"] {
            assert!(statements(empty).unwrap().is_empty(), "{empty}");
        }
        assert!(statements("SELECT 'open").is_err());
    }

    #[test]
    fn commands_of_drivers_are_known() {
        let set = |name: &str, value: &str| vec![Command::Set(name.to_owned(), value.to_owned())];
        assert_eq!(commands("SET statement_timeout = 200"), set("statement_timeout", "200"));
        assert_eq!(commands("set session extra_float_digits to 3"), set("extra_float_digits", "3"));
        assert_eq!(commands("SET datafusion.execution.batch_size = 1"), set("datafusion.execution.batch_size", "1"));
        assert_eq!(commands("SET TIME ZONE 'UTC'"), set("timezone", "UTC"));
        assert_eq!(
            commands("begin read only; end; rollback to savepoint a"),
            [Command::Begin, Command::Commit, Command::Savepoint("ROLLBACK")]
        );
        assert_eq!(commands("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), [Command::Nothing("SET")]);
        assert_eq!(commands("show transaction isolation level"), [Command::Show("transaction_isolation".to_owned())]);
        assert_eq!(
            commands("DISCARD ALL; DEALLOCATE ALL; RESET ALL; UNLISTEN *; CLOSE ALL"),
            [
                Command::Discard,
                Command::Deallocate(None),
                Command::Reset(None),
                Command::Nothing("UNLISTEN"),
                Command::Close(None)
            ]
        );
        assert!(statements("SET ROLE postgres").is_err());
    }

    #[test]
    fn cursors_go_forward() {
        assert_eq!(
            commands("DECLARE \"My Cursor\" NO SCROLL CURSOR WITH HOLD FOR SELECT 1"),
            [Command::Declare { name: "My Cursor".to_owned(), hold: true, query: "SELECT 1".to_owned() }]
        );
        let fetch = |rows, moves| Command::Fetch { name: "c".to_owned(), rows, moves };
        assert_eq!(
            commands("FETCH FORWARD 100 FROM c; FETCH c; FETCH ALL IN C; MOVE 3 FROM \"c\""),
            [fetch(Some(100), false), fetch(Some(1), false), fetch(None, false), fetch(Some(3), true)]
        );
        for backwards in
            ["FETCH BACKWARD 1 FROM c", "FETCH -1 FROM c", "DECLARE c SCROLL CURSOR FOR SELECT 1", "FETCH 1"]
        {
            assert!(statements(backwards).is_err(), "{backwards}");
        }
    }

    #[test]
    fn everything_else_is_for_the_gate() {
        for text in
            ["SELECT 1", "INSERT INTO events VALUES (1)", "COPY events TO '/tmp/x'", "PREPARE p AS SELECT 1", "VACUUM"]
        {
            assert_eq!(commands(text), [Command::Query], "{text}");
        }
    }
}
