//! The schema of `responder.db`: a list of steps, each of which takes the file one version further.
//!
//! A step is never changed once it was released; what comes later is a step of its own at the end.

/// In order; `user_version` counts how many of them a file has been through.
pub(super) const MIGRATIONS: &[&str] = &[FIRST, SELF_TESTS, ACTIONS_BESIDE];

/// Positions, incidents, timeline, actions, notices.
const FIRST: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE positions(source TEXT PRIMARY KEY, next INTEGER NOT NULL) STRICT;
CREATE TABLE counts(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE refused(id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, source TEXT NOT NULL,
  position INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
CREATE TABLE incidents(
  id TEXT PRIMARY KEY, group_kind TEXT NOT NULL, group_value TEXT NOT NULL, principal TEXT, title TEXT NOT NULL,
  severity TEXT NOT NULL, state TEXT NOT NULL, opened_us INTEGER NOT NULL, changed_us INTEGER NOT NULL,
  first_event_us INTEGER NOT NULL, last_event_us INTEGER NOT NULL, resolved_us INTEGER,
  notices INTEGER NOT NULL DEFAULT 0, tell_since_us INTEGER, tell_last_us INTEGER) STRICT;
CREATE INDEX incidents_group ON incidents(group_kind, group_value, last_event_us);
CREATE INDEX incidents_tell ON incidents(tell_since_us) WHERE tell_since_us IS NOT NULL;
CREATE TABLE incident_keys(incident TEXT NOT NULL, key_arn TEXT NOT NULL, PRIMARY KEY(incident, key_arn)) STRICT;
CREATE TABLE alerts(
  alert_id TEXT NOT NULL, revision INTEGER NOT NULL, incident TEXT NOT NULL, rule_id TEXT NOT NULL,
  rule_version INTEGER NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, matched INTEGER NOT NULL,
  first_event_us INTEGER NOT NULL, last_event_us INTEGER NOT NULL, detected_us INTEGER NOT NULL,
  received_us INTEGER NOT NULL, seqs TEXT NOT NULL, source_ips TEXT NOT NULL, ours INTEGER NOT NULL,
  PRIMARY KEY(alert_id, revision)) STRICT;
CREATE INDEX alerts_incident ON alerts(incident);
CREATE TABLE offences(event_id TEXT PRIMARY KEY, incident TEXT NOT NULL, key_arn TEXT NOT NULL,
  previous_event_id TEXT) STRICT;
CREATE INDEX offences_key ON offences(key_arn);
CREATE TABLE timeline(id INTEGER PRIMARY KEY AUTOINCREMENT, incident TEXT NOT NULL, at_us INTEGER NOT NULL,
  kind TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE INDEX timeline_incident ON timeline(incident);
CREATE TRIGGER timeline_no_update BEFORE UPDATE ON timeline BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TRIGGER timeline_no_delete BEFORE DELETE ON timeline BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TABLE actions(
  row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, incident TEXT NOT NULL, playbook TEXT NOT NULL,
  playbook_version INTEGER NOT NULL, step TEXT NOT NULL, kind TEXT NOT NULL, attribute TEXT NOT NULL,
  target TEXT NOT NULL, generation INTEGER NOT NULL, cause TEXT NOT NULL, undo_of TEXT, requires TEXT,
  stop_on_error INTEGER NOT NULL, args TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, needs_person INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt_us INTEGER NOT NULL, planned_us INTEGER NOT NULL,
  leased_us INTEGER, finished_us INTEGER, pre_state TEXT, changed INTEGER, log_seq INTEGER) STRICT;
CREATE INDEX actions_incident ON actions(incident);
CREATE INDEX actions_due ON actions(next_attempt_us) WHERE state IN ('ready', 'leased');
CREATE INDEX actions_target ON actions(target, attribute, planned_us);
CREATE INDEX actions_playbook ON actions(playbook, planned_us);
CREATE TABLE notices(
  row INTEGER PRIMARY KEY AUTOINCREMENT, dedup TEXT NOT NULL UNIQUE, incident TEXT, channel TEXT NOT NULL,
  number INTEGER NOT NULL, message_id TEXT NOT NULL, in_reply_to TEXT, subject TEXT NOT NULL, body TEXT NOT NULL,
  state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, created_us INTEGER NOT NULL,
  next_attempt_us INTEGER NOT NULL, sent_us INTEGER, error TEXT) STRICT;
CREATE INDEX notices_due ON notices(channel, next_attempt_us) WHERE state = 'ready';
";

/// How the hourly self-tests went.
const SELF_TESTS: &str = "
CREATE TABLE self_tests(
  id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, outcome TEXT NOT NULL, detected_us INTEGER,
  contained_us INTEGER, undone_us INTEGER, reason TEXT) STRICT;
";

/// Alerts that a snapshot of evidence needs until it is taken, and moves of aliases.
const ACTIONS_BESIDE: &str = "
CREATE TABLE evidence_kept(action_id TEXT PRIMARY KEY, alert TEXT NOT NULL) STRICT;
CREATE TABLE alias_offences(event_id TEXT PRIMARY KEY, incident TEXT NOT NULL, alias_arn TEXT NOT NULL,
  previous_event_id TEXT, previous_target TEXT NOT NULL) STRICT;
CREATE INDEX alias_offences_alias ON alias_offences(alias_arn);
";
