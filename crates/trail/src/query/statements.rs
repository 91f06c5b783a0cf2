//! Several statements in one text: where each ends.
//!
//! Decided on tokens, so that a semicolon inside quotes or a comment ends nothing. Whether a statement may run is for
//! `gate` to say.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError};

/// The statements in order as they are written, without their semicolons. Space and comments alone are no statement.
/// Fails on a quote or comment that is not closed.
pub fn split(text: &str) -> Result<Vec<String>, TokenizerError> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location()?;
    let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let byte_at = |at: Location| {
        let (line, column) = (usize::try_from(at.line).ok()?, usize::try_from(at.column).ok()?);
        let start = *lines.get(line.checked_sub(1)?)?;
        let rest = text.get(start..)?;
        Some(start + rest.char_indices().nth(column.checked_sub(1)?).map_or(rest.len(), |(at, _)| at))
    };
    let says_something = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let statements = tokens.split(|token| token.token == Token::SemiColon).filter_map(|tokens| {
        tokens.iter().find(|token| says_something(token))?;
        let (first, last) = (tokens.first()?, tokens.last()?);
        text.get(byte_at(first.span.start)?..byte_at(last.span.end)?)
    });
    Ok(statements.map(|statement| statement.trim().to_owned()).collect())
}

/// Whether the last statement is closed by a semicolon; an empty text is.
pub fn are_closed(text: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else { return false };
    tokens.iter().rfind(|token| !matches!(token, Token::Whitespace(_))).is_none_or(|last| *last == Token::SemiColon)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_end_nothing() {
        let text = "SELECT 'it''s; \\n' AS \"a;b\" -- one; two\n; /* ; */ ; SELECT 1 + 2.50e1; -- the end;\n";
        let found = split(text).unwrap();
        assert_eq!(found, ["SELECT 'it''s; \\n' AS \"a;b\" -- one; two", "SELECT 1 + 2.50e1"]);
        assert!(split(" ;; -- nothing").unwrap().is_empty());
        assert!(split("SELECT 'open").is_err());
    }

    #[test]
    fn a_statement_is_closed_by_its_semicolon() {
        for closed in ["", "-- a", "SELECT 1;", "SELECT ';' ; -- done"] {
            assert!(are_closed(closed), "{closed}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2", "SELECT /* 1;"] {
            assert!(!are_closed(open), "{open}");
        }
    }

    #[test]
    fn what_is_split_reads_as_before() {
        for text in [
            "SELECT event_name::text, x->>'a', E'\\t', $1, $name, 1e3 FROM t WHERE a <> b AND c IN (1, -2) AND d LIKE '%''%'",
            "WITH a AS (SELECT * FROM \"T\") SELECT a.*, date_bin(INTERVAL '1 hour', t) FROM a",
        ] {
            assert_eq!(split(&format!("{text};")).unwrap(), [text]);
        }
    }
}
