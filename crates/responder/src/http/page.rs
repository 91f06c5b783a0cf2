//! The few pages behind a mail's link: no script, no style, everything that came from elsewhere escaped.

use super::Reply;
use super::link::{Opened, Use};
use crate::incident::person::{NAME_CHARS_MAX, NOTE_CHARS_MAX};
use crate::incident::{IncidentDetail, Resolution};
use crate::notify::render::clean;
use std::fmt::Write as _;

/// What can be done, a form for each.
pub(super) fn ask(opened: &Opened, query: &str) -> Reply {
    whole(200, "Deal with this incident", &facts(&opened.detail), &forms(&opened.left, query))
}

/// It is done, and what is left.
pub(super) fn done(deed: Use, opened: &Opened, query: &str) -> Reply {
    let summary = &opened.detail.summary;
    let (title, text) = match deed {
        Use::Acknowledge => ("Acknowledged", "Responding goes on as before; new actions are told."),
        Use::Assign => ("Assigned", "Responding goes on as before."),
        Use::Note => ("Noted", "It is in the timeline."),
        Use::Close => ("Closed", "What was done stays as it is, and a later alert opens it again."),
        // Whose mail this was need not read of the other one.
        Use::Merge => return of(200, "Merged", &format!("It is part of {} now.", summary.id)),
    };
    whole(200, title, &facts(&opened.detail), &format!("<p>{text}</p>\n{}", forms(&opened.left, query)))
}

/// A sentence of ours.
pub(super) fn of(status: u16, title: &str, text: &str) -> Reply {
    whole(status, title, "", &format!("<p>{}</p>", escaped(text)))
}

fn whole(status: u16, title: &str, facts: &str, rest: &str) -> Reply {
    let title = escaped(title);
    let head = "<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">";
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head>{head}<title>{title}</title></head>\n<body><h1>{title}</h1>\n\
         {facts}{rest}\n</body></html>\n"
    );
    Reply { status, content_type: "text/html; charset=utf-8", body }
}

fn facts(detail: &IncidentDetail) -> String {
    let summary = &detail.summary;
    let mut list = String::from("<dl>");
    for (name, value) in [
        ("Incident", summary.id.as_str()),
        ("State", summary.state.as_str()),
        ("Severity", summary.severity.as_str()),
        ("Title", &summary.title),
        ("Principal", summary.principal.as_deref().unwrap_or("-")),
        ("Acknowledged by", summary.acknowledged_by.as_deref().unwrap_or("nobody")),
        ("Assigned to", summary.assignee.as_deref().unwrap_or("nobody")),
    ] {
        let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escaped(&clean(value, 300)));
    }
    list + "</dl>\n"
}

/// The link's token goes with each form, and beside the page's own path: no other site can send one.
fn forms(left: &[Use], query: &str) -> String {
    let mut forms = String::new();
    for deed in left {
        let (fields, button) = match deed {
            Use::Acknowledge => (String::new(), "Acknowledge"),
            Use::Assign => (field("Assign to", "assignee", NAME_CHARS_MAX, true), "Assign"),
            Use::Note => (field("Note", "text", NOTE_CHARS_MAX, true), "Write note"),
            Use::Close => (reasons() + &field("because", "text", NOTE_CHARS_MAX, false), "Close"),
            Use::Merge => (field("Merge into incident", "into", NAME_CHARS_MAX, true), "Merge"),
        };
        let _ = writeln!(
            forms,
            "<form method=\"post\" action=\"{}?{}\"><p>{fields}<button type=\"submit\">{button}</button></p></form>",
            deed.as_str(),
            escaped(query)
        );
    }
    forms
}

fn field(label: &str, name: &str, chars_max: usize, required: bool) -> String {
    let required = if required { " required" } else { "" };
    format!("<label>{label} <input name=\"{name}\" maxlength=\"{chars_max}\" autocomplete=\"off\"{required}></label> ")
}

fn reasons() -> String {
    let options: String =
        Resolution::GIVEN.iter().map(|reason| format!("<option>{}</option>", reason.as_str())).collect();
    format!("<label>Close as <select name=\"reason\">{options}</select></label> ")
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
