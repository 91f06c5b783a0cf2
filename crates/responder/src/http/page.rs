//! The few pages behind a mail's link: no script, no style, everything that came from elsewhere escaped.

use super::Reply;
use crate::incident::IncidentDetail;
use crate::notify::render::clean;
use std::fmt::Write as _;

/// Asks whether to acknowledge.
pub(super) fn ask(detail: &IncidentDetail) -> Reply {
    let form = "<form method=\"post\"><button type=\"submit\">Acknowledge</button></form>";
    whole(200, "Acknowledge this incident?", &facts(detail), form)
}

/// It is acknowledged.
pub(super) fn done(detail: &IncidentDetail) -> Reply {
    whole(200, "Acknowledged", &facts(detail), "<p>Responding goes on as before; new actions are told.</p>")
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
    ] {
        let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escaped(&clean(value, 300)));
    }
    list + "</dl>\n"
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
