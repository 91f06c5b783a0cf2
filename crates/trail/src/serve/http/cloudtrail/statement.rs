//! The view `cloudtrail` in the place of an event data store: CloudTrail Lake's SQL says `FROM` and the store's id, a UUID.

/// Length of a UUID as text.
const UUID_CHARS: usize = 36;
const VIEW: &str = "cloudtrail";

/// The statement with our view for each id of an event data store. Quoted texts and comments stay as they are.
pub(super) fn with_view(statement: &str) -> String {
    let mut out = String::with_capacity(statement.len());
    let mut rest = statement;
    while let Some(char) = rest.chars().next() {
        let before = out.chars().next_back();
        let word_goes_on = before.is_some_and(|before| before.is_ascii_alphanumeric() || "_-.".contains(before));
        let taken = if let Some(length) = passed_over(rest) {
            let part = &rest[..length];
            let quoted = part.trim_matches('"');
            out.push_str(if part.starts_with('"') && is_uuid(quoted) { VIEW } else { part });
            length
        } else if !word_goes_on && starts_with_uuid(rest) {
            out.push_str(VIEW);
            UUID_CHARS
        } else {
            out.push(char);
            char.len_utf8()
        };
        rest = &rest[taken..];
    }
    out
}

/// How long the quoted text or comment is that begins here.
fn passed_over(text: &str) -> Option<usize> {
    let behind = |open: usize, close: &str| {
        let found = text.get(open..).and_then(|rest| rest.find(close));
        found.map_or(text.len(), |at| open + at + close.len())
    };
    if text.starts_with("--") {
        Some(behind(2, "\n"))
    } else if text.starts_with("/*") {
        Some(behind(2, "*/"))
    } else if text.starts_with('\'') {
        // A doubled quote inside is the end of one text and the begin of the next, which comes to the same.
        Some(behind(1, "'"))
    } else if text.starts_with('"') {
        Some(behind(1, "\""))
    } else {
        None
    }
}

fn starts_with_uuid(text: &str) -> bool {
    let goes_on = text.get(UUID_CHARS..).and_then(|rest| rest.chars().next());
    let ends = goes_on.is_none_or(|next| !(next.is_ascii_alphanumeric() || "_-".contains(next)));
    ends && text.get(..UUID_CHARS).is_some_and(is_uuid)
}

/// In its form with hyphens.
fn is_uuid(text: &str) -> bool {
    text.len() == UUID_CHARS && uuid::Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0199b000-f852-4e8f-8bd1-bcf6c1111111";

    #[test]
    fn a_stores_id_is_the_view() {
        for (statement, expected) in [
            (format!("SELECT * FROM {ID}"), "SELECT * FROM cloudtrail".to_owned()),
            (
                format!("select count(*) from\n{ID}\nwhere 1=1"),
                "select count(*) from\ncloudtrail\nwhere 1=1".to_owned(),
            ),
            (
                format!("SELECT a.eventID FROM {ID} AS a JOIN {ID} b ON a.x=b.x"),
                "SELECT a.eventID FROM cloudtrail AS a JOIN cloudtrail b ON a.x=b.x".to_owned(),
            ),
            (
                format!("SELECT (SELECT max(eventTime) FROM {ID})"),
                "SELECT (SELECT max(eventTime) FROM cloudtrail)".to_owned(),
            ),
            (format!("SELECT * FROM \"{ID}\""), "SELECT * FROM cloudtrail".to_owned()),
            ("SELECT 'é' FROM cloudtrail".to_owned(), "SELECT 'é' FROM cloudtrail".to_owned()),
        ] {
            assert_eq!(with_view(&statement), expected);
        }
    }

    #[test]
    fn what_is_quoted_said_in_a_comment_or_longer_stays() {
        for statement in [
            format!("SELECT * FROM cloudtrail WHERE eventID = '{ID}'"),
            format!("SELECT 'it''s {ID}' -- {ID}\n/* {ID} */"),
            format!("SELECT 'open {ID}"),
            format!("SELECT x{ID}, {ID}0, a.{ID}"),
            format!("-- {ID}"),
            format!("/* {ID}"),
        ] {
            assert_eq!(with_view(&statement), statement);
        }
    }
}
