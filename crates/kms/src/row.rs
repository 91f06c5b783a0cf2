//! One event as a row of the lake has it; absent members are None.

/// The columns of `records` by their names; nested objects as JSON text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Row<'a> {
    pub seq: u64,
    /// `event_time`: Unix microseconds.
    pub time_us: u64,
    pub event_source: &'a str,
    pub event_name: &'a str,
    pub request_id: Option<&'a str>,
    pub read_only: bool,
    pub error_code: Option<&'a str>,
    pub principal_type: Option<&'a str>,
    pub principal_arn: Option<&'a str>,
    pub principal_account: Option<&'a str>,
    pub access_key_id: Option<&'a str>,
    pub invoked_by: Option<&'a str>,
    pub source_ip: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub region: &'a str,
    pub key_arn: Option<&'a str>,
    pub decided_by: Option<&'a str>,
    pub repeat_of: Option<&'a str>,
    pub request_parameters: Option<&'a str>,
    pub response_elements: Option<&'a str>,
    pub additional: Option<&'a str>,
    /// Whether the call came over TLS; None when that was not looked up, as it takes the whole event (`raw`).
    pub tls: Option<bool>,
}

impl Row<'_> {
    /// Whether it changed something: a repeat of the responder's changed nothing.
    pub fn is_change(&self) -> bool {
        !self.read_only && self.error_code.is_none() && self.repeat_of.is_none()
    }

    /// Whether it opened a session.
    pub fn opens_session(&self) -> bool {
        self.error_code.is_none()
            && matches!(self.event_name, "AssumeRole" | "AssumeRoleWithWebIdentity" | "GetSessionToken")
    }

    /// Whether the policies refused it.
    pub fn is_denied(&self) -> bool {
        self.error_code == Some("AccessDenied")
    }
}
