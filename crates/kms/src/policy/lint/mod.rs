//! Lint: what a policy that parses says that its author may not have meant. Pure, no I/O.
//!
//! Each finding has a request that the document allows and a corrected document, both shown by `evaluate`, the same code
//! that decides calls. "No wider" is shown on the requests of `grid`, which are derived from both documents: a proof
//! for these, not for all. The checks are in `checks`. Whoever can write policies can write one that no check
//! describes: no findings does not mean safe.

mod checks;
mod grants;
mod grid;

// Others ask the same of several documents together.
pub(crate) use checks::{ADMINISTER, USE};
pub use grants::{Granted, lint_grant};

use super::document::{Document, Flavor, PolicyError, Statement};
use super::request::Request;
use grid::Grid;
use serde::Serialize;
use serde_json::Value;

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, such as `all-actions`.
    pub code: &'static str,
    /// Sid or index of the statement; none when something is missing.
    pub statement: Option<String>,
    /// What is wrong.
    pub message: String,
    /// A request that the document allows because of it; none when no request of the grid shows it.
    pub example: Option<Example>,
    /// How it could be written; none when no way was shown to be no wider.
    pub correction: Option<Correction>,
}

/// A request that was evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// ARN of the caller.
    pub principal: String,
    /// `kms:Decrypt`.
    pub action: String,
    /// ARN of the key or alias.
    pub resource: String,
    /// In which of the grid's circumstances.
    pub circumstances: &'static str,
}

/// Another document for the same purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Correction {
    /// Its text.
    pub policy: String,
    /// Whether it allows nothing on the grid that the document does not. False only where something has to be added.
    pub no_wider: bool,
}

/// Findings of a key policy or identity policy of `account`, in the order of the checks.
pub fn lint(text: &str, flavor: Flavor, account: &str) -> Result<Vec<Finding>, PolicyError> {
    let document = Document::parse(text, flavor)?;
    let json: Value = serde_json::from_str(text).map_err(|error| PolicyError::Json(error.to_string()))?;
    let grid = Grid::of(&[&json], account);
    let subject = Subject { text, document: &document, json: &json, account, grid: &grid };
    Ok(checks::all(&subject).into_iter().map(|draft| subject.finish(draft)).collect())
}

/// The document under the lens.
struct Subject<'a> {
    text: &'a str,
    document: &'a Document,
    json: &'a Value,
    account: &'a str,
    grid: &'a Grid,
}

/// What a check found; the example and the proof are the same for all checks.
struct Draft<'a> {
    code: &'static str,
    statement: Option<&'a Statement>,
    message: String,
    /// Which of the requests that the document allows shows it.
    shows: Box<dyn Fn(&Request<'_>) -> bool + 'a>,
    /// Corrected documents, the best first.
    corrected: Vec<Value>,
    /// Whether the correction has to add something.
    adds: bool,
}

impl Subject<'_> {
    fn finish(&self, draft: Draft<'_>) -> Finding {
        let example = self.grid.find(self.document, |request| (draft.shows)(request));
        let correction = draft.corrected.iter().find_map(|json| self.correction(json, draft.adds));
        let Draft { code, statement, message, .. } = draft;
        Finding { code, statement: statement.map(|statement| statement.label.clone()), message, example, correction }
    }

    fn correction(&self, corrected: &Value, may_add: bool) -> Option<Correction> {
        let policy = serde_json::to_string_pretty(corrected).ok()?;
        let document = Document::parse(&policy, self.document.flavor).ok()?;
        let no_wider = Grid::of(&[self.json, corrected], self.account).is_within(&document, self.document);
        (no_wider || may_add).then_some(Correction { policy, no_wider })
    }
}

#[cfg(test)]
mod tests;
