//! Settings of a connection: what clients set as they connect. They are remembered and told back; only two do anything:
//! `statement_timeout` shortens the deadline of the user's role, `application_name` stands in the records of queries. A value
//! that would change how answers look (an encoding, a date style) is taken only if it is the one in force, and a name that is
//! not in the list is refused.

use super::error::WireError;
use super::functions::SERVER_VERSION;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Names with their values at the start; those of the second list do nothing whatever they are set to.
pub(super) const FIXED: [(&str, &str); 12] = [
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_read_only", "on"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "160006"),
    ("standard_conforming_strings", "on"),
    ("transaction_read_only", "on"),
];
const FREE: [(&str, &str); 22] = [
    ("application_name", ""),
    ("array_nulls", "on"),
    ("backslash_quote", "safe_encoding"),
    ("client_min_messages", "notice"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "repeatable read"),
    ("enable_nestloop", "on"),
    ("extra_float_digits", "1"),
    ("geqo", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("jit", "off"),
    ("lc_messages", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("row_security", "on"),
    ("search_path", "public"),
    ("session_authorization", ""),
    ("ssl_renegotiation_limit", "0"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "repeatable read"),
];
/// Longest value kept.
const VALUE_BYTES_MAX: usize = 256;

/// The settings of one connection.
pub(super) struct Settings {
    values: Arc<BTreeMap<String, String>>,
    /// As they were once the client was connected.
    started: Arc<BTreeMap<String, String>>,
    pub(super) timeout: Option<Duration>,
}

impl Settings {
    /// With what came in the start-up message.
    pub(super) fn new(user: &str, wanted: BTreeMap<String, String>) -> Result<Self, WireError> {
        let all = FIXED.iter().chain(&FREE).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut values: BTreeMap<String, String> = all.collect();
        values.insert("session_authorization".to_owned(), user.to_owned());
        let mut settings = Self { values: Arc::new(values), started: Arc::default(), timeout: None };
        for (name, value) in wanted {
            settings.set(&name, &value)?;
        }
        settings.started = settings.values.clone();
        Ok(settings)
    }

    pub(super) fn values(&self) -> &Arc<BTreeMap<String, String>> {
        &self.values
    }

    pub(super) fn value(&self, name: &str) -> Result<&str, WireError> {
        let found = self.values.get(&name.to_lowercase()).map(String::as_str);
        found.ok_or_else(|| unknown(name))
    }

    /// Sets one; the name under which clients want to be told, for those that they follow.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<Option<&'static str>, WireError> {
        let name = name.to_lowercase();
        if value.eq_ignore_ascii_case("default") {
            return self.reset(Some(&name)).map(|()| None);
        }
        if !self.values.contains_key(&name) {
            return Err(unknown(&name));
        }
        if name == "timezone" {
            // Times are answered in UTC with their offset, which is the same moment in every zone.
            return Ok(None);
        }
        if let Some((_, own)) = FIXED.iter().find(|(fixed, _)| *fixed == name) {
            return if is_same(&name, own, value) {
                Ok(None)
            } else {
                Err(WireError::new(
                    "22023",
                    format!("{name} is {own} here and cannot be {}", crate::query::printable(value)),
                ))
            };
        }
        if name == "session_authorization" || value.len() > VALUE_BYTES_MAX {
            return Err(WireError::new("22023", format!("{name} cannot be set to that")));
        }
        if name == "statement_timeout" {
            self.timeout = timeout(value)?;
        }
        Arc::make_mut(&mut self.values).insert(name.clone(), value.to_owned());
        Ok((name == "application_name").then_some("application_name"))
    }

    /// Takes one, or all, back to what they were at the start.
    pub(super) fn reset(&mut self, name: Option<&str>) -> Result<(), WireError> {
        match name {
            Some(name) => {
                let name = name.to_lowercase();
                let value = self.started.get(&name).or_else(|| self.values.get(&name)).cloned();
                let value = value.ok_or_else(|| unknown(&name))?;
                Arc::make_mut(&mut self.values).insert(name, value);
            }
            None => self.values = self.started.clone(),
        }
        self.timeout = timeout(self.value("statement_timeout")?)?;
        Ok(())
    }

    /// What a client is told when it has connected.
    pub(super) fn reported(&self) -> Vec<(&'static str, String)> {
        let told = [
            ("application_name", "application_name"),
            ("client_encoding", "client_encoding"),
            ("DateStyle", "datestyle"),
            ("default_transaction_read_only", "default_transaction_read_only"),
            ("in_hot_standby", ""),
            ("integer_datetimes", "integer_datetimes"),
            ("IntervalStyle", "intervalstyle"),
            ("is_superuser", "is_superuser"),
            ("server_encoding", "server_encoding"),
            ("server_version", "server_version"),
            ("session_authorization", "session_authorization"),
            ("standard_conforming_strings", "standard_conforming_strings"),
            ("TimeZone", "timezone"),
        ];
        let value = |name: &str| self.values.get(name).cloned().unwrap_or_else(|| "off".to_owned());
        told.into_iter().map(|(shown, name)| (shown, value(name))).collect()
    }
}

fn unknown(name: &str) -> WireError {
    let name = crate::query::printable(name);
    WireError::new("42704", format!("unrecognized configuration parameter \"{name}\""))
}

/// Spellings that mean what is in force.
fn is_same(name: &str, own: &str, value: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_', ' '], "").to_lowercase();
    let value = plain(value);
    match name {
        "client_encoding" => matches!(value.as_str(), "utf8" | "unicode" | "auto"),
        "datestyle" => value.starts_with("iso"),
        _ if own == "on" => matches!(value.as_str(), "on" | "true" | "1" | "yes"),
        _ => value == plain(own),
    }
}

/// `200`, `200ms`, `5s`, `1min`; 0 is no limit of the client's own.
fn timeout(value: &str) -> Result<Option<Duration>, WireError> {
    let value = value.trim();
    let split = value.find(|char: char| !char.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(split);
    let factor = match unit.trim() {
        "" | "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    match millis {
        Some(0) => Ok(None),
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(WireError::new("22023", "statement_timeout is a number of milliseconds, or with a unit: 5s, 1min")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn harmless_settings_are_taken_and_others_refused_by_name() {
        let mut settings = Settings::new("alice", BTreeMap::new()).unwrap();
        settings.set("statement_timeout", "5s").unwrap();
        assert_eq!(settings.timeout, Some(Duration::from_secs(5)));
        settings.set("client_encoding", "utf-8").unwrap();
        settings.set("DateStyle", "ISO").unwrap();
        assert_eq!(settings.set("application_name", "psql").unwrap(), Some("application_name"));
        for (name, value) in [
            ("datafusion.execution.batch_size", "1"),
            ("client_encoding", "latin1"),
            ("session_authorization", "postgres"),
            ("statement_timeout", "soon"),
            ("transaction_read_only", "off"),
        ] {
            assert!(settings.set(name, value).is_err(), "{name}");
        }
        settings.reset(None).unwrap();
        assert_eq!((settings.timeout, settings.value("application_name").unwrap()), (None, ""));
        assert_eq!(settings.value("session_authorization").unwrap(), "alice");
    }
}
