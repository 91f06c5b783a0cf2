//! The schema of `responder.db`: a list of steps, each of which takes the file one version further.
//!
//! A step is never changed once it was released; what comes later is a step of its own at the end.

/// In order; `user_version` counts how many of them a file has been through.
pub(super) const MIGRATIONS: &[&str] = &[
    FIRST,
    SELF_TESTS,
    ACTIONS_BESIDE,
    crate::approval::SCHEMA,
    LIFE_CYCLE,
    STANDING,
    ROUTING,
    INCIDENT_PRINCIPALS,
    STORM,
    crate::reset::SCHEMA,
    OFFENCES,
    WAITING_COUNTS,
    UNDO_WANTED,
    ALLOWED_RULES,
    FIRST_ACKNOWLEDGED,
    crate::retention::SCHEMA,
];

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

/// People's marks, containment and exposure, the links of the timeline and what of it the log has.
const LIFE_CYCLE: &str = "
ALTER TABLE incidents ADD COLUMN acknowledged_by TEXT;
ALTER TABLE incidents ADD COLUMN acknowledged_us INTEGER;
ALTER TABLE incidents ADD COLUMN assignee TEXT;
ALTER TABLE incidents ADD COLUMN resolution TEXT;
ALTER TABLE incidents ADD COLUMN resolved_by TEXT;
ALTER TABLE incidents ADD COLUMN reopened_us INTEGER;
ALTER TABLE incidents ADD COLUMN reopenings INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN merged_into TEXT;
ALTER TABLE incidents ADD COLUMN contained_us INTEGER;
ALTER TABLE incidents ADD COLUMN not_contained TEXT;
ALTER TABLE incidents ADD COLUMN check_us INTEGER;
ALTER TABLE incidents ADD COLUMN checks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN checked_through INTEGER;
ALTER TABLE incidents ADD COLUMN exposure TEXT;
CREATE INDEX actions_undo_of ON actions(undo_of) WHERE undo_of IS NOT NULL;
CREATE INDEX incidents_check ON incidents(check_us) WHERE check_us IS NOT NULL;
CREATE INDEX incidents_merged ON incidents(merged_into) WHERE merged_into IS NOT NULL;
CREATE TABLE timeline_links(entry INTEGER PRIMARY KEY, incident TEXT NOT NULL, number INTEGER NOT NULL,
  digest TEXT NOT NULL, UNIQUE(incident, number)) STRICT;
CREATE TRIGGER timeline_links_no_update BEFORE UPDATE ON timeline_links
  BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TRIGGER timeline_links_no_delete BEFORE DELETE ON timeline_links
  BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TABLE timeline_unsent(entry INTEGER PRIMARY KEY, incident TEXT NOT NULL) STRICT;
CREATE INDEX timeline_unsent_incident ON timeline_unsent(incident, entry);
CREATE TABLE timeline_recorded(incident TEXT PRIMARY KEY, through INTEGER NOT NULL, log_seq INTEGER) STRICT;
CREATE TABLE used_links(mac TEXT PRIMARY KEY, expires_s INTEGER NOT NULL) STRICT;
UPDATE incidents SET check_us = changed_us, contained_us = changed_us WHERE state = 'contained';
";

/// Receivers, who was told what and when, silences, and what alerts say for routes and mail.
const ROUTING: &str = "
ALTER TABLE notices ADD COLUMN recipient TEXT NOT NULL DEFAULT '';
ALTER TABLE notices ADD COLUMN batch TEXT NOT NULL DEFAULT '';
ALTER TABLE notices ADD COLUMN rescued INTEGER NOT NULL DEFAULT 0;
CREATE INDEX notices_open ON notices(state, created_us) WHERE state IN ('ready', 'dead');
CREATE INDEX notices_batch ON notices(batch);
CREATE INDEX notices_channel ON notices(channel, created_us);
DELETE FROM meta WHERE key = 'channels';
CREATE TABLE receivers(
  name TEXT PRIMARY KEY, kind TEXT NOT NULL, recipients TEXT NOT NULL, active INTEGER NOT NULL,
  heartbeat_us INTEGER NOT NULL, ok_us INTEGER, failing_us INTEGER, error TEXT) STRICT;
CREATE TABLE tellings(
  incident TEXT NOT NULL, receiver TEXT NOT NULL, number INTEGER NOT NULL DEFAULT 0, occasion TEXT NOT NULL,
  since_us INTEGER, due_us INTEGER, wait_us INTEGER NOT NULL DEFAULT 0, longest_us INTEGER NOT NULL DEFAULT 0,
  told_us INTEGER, repeat_us INTEGER, escalate_us INTEGER, escalate_to TEXT NOT NULL DEFAULT '[]', muted_by TEXT,
  muted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(incident, receiver)) STRICT;
INSERT INTO tellings(incident, receiver, number, occasion, told_us)
  SELECT incident, channel, max(number), 'news', max(created_us) FROM notices
  WHERE incident IS NOT NULL AND number > 0 GROUP BY incident, channel;
CREATE INDEX tellings_due ON tellings(due_us) WHERE due_us IS NOT NULL;
CREATE INDEX tellings_escalate ON tellings(escalate_us) WHERE escalate_us IS NOT NULL;
CREATE INDEX tellings_repeat ON tellings(told_us) WHERE repeat_us IS NOT NULL;
CREATE TABLE silences(
  id INTEGER PRIMARY KEY AUTOINCREMENT, author TEXT NOT NULL, reason TEXT NOT NULL, matches TEXT NOT NULL,
  created_us INTEGER NOT NULL, ends_us INTEGER NOT NULL, expired_by TEXT, muted INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX silences_end ON silences(ends_us);
CREATE TABLE alert_facts(
  alert_id TEXT NOT NULL, revision INTEGER NOT NULL, incident TEXT NOT NULL, why TEXT, labels TEXT NOT NULL,
  queries TEXT NOT NULL, PRIMARY KEY(alert_id, revision)) STRICT;
CREATE INDEX alert_facts_incident ON alert_facts(incident);
CREATE TABLE key_tags(
  key_arn TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, seen_us INTEGER NOT NULL,
  PRIMARY KEY(key_arn, name, value)) STRICT;
CREATE TABLE refused_calls(
  incident TEXT NOT NULL, seq INTEGER NOT NULL, principal TEXT NOT NULL, key_arn TEXT, error_code TEXT NOT NULL,
  PRIMARY KEY(incident, seq)) STRICT;
CREATE INDEX refused_calls_key ON refused_calls(key_arn);
CREATE INDEX refused_calls_principal ON refused_calls(principal);
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

/// How the responder stands, what waits for announced changes to be read, and why each action was judged as it was.
const STANDING: &str = "
CREATE TABLE standing(id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, kind TEXT NOT NULL,
  subject TEXT NOT NULL, by_whom TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, log_seq INTEGER) STRICT;
CREATE INDEX standing_last ON standing(subject, kind, id);
CREATE INDEX standing_unreported ON standing(id) WHERE log_seq IS NULL;
CREATE TRIGGER standing_no_update BEFORE UPDATE OF id, at_us, kind, subject, by_whom, reason, detail ON standing
  BEGIN SELECT RAISE(ABORT, 'standing is append-only'); END;
CREATE TRIGGER standing_no_delete BEFORE DELETE ON standing
  BEGIN SELECT RAISE(ABORT, 'standing is append-only'); END;
CREATE TABLE unread_changes(action TEXT PRIMARY KEY, deeds TEXT NOT NULL, complete INTEGER NOT NULL) STRICT;
CREATE TABLE judgements(action TEXT PRIMARY KEY, verdicts TEXT NOT NULL) STRICT;
";

/// Who acts together in an incident; `role` is the role of a session, of all others the principal itself.
const INCIDENT_PRINCIPALS: &str = "
CREATE TABLE incident_principals(incident TEXT NOT NULL, principal TEXT NOT NULL, role TEXT NOT NULL,
  PRIMARY KEY(incident, principal)) STRICT;
CREATE INDEX incident_principals_role ON incident_principals(role);
CREATE INDEX incident_keys_key ON incident_keys(key_arn);
INSERT INTO incident_principals SELECT id, principal, principal FROM incidents
  WHERE principal IS NOT NULL AND principal NOT LIKE '%:root' AND principal NOT LIKE '%:keytrail/%';
";

/// What an alert asks of the actions, each by an index of its own: a storm leaves many rows that were held or only
/// observed, and the answer must not take longer because of them. The conditions are those of the queries, word by word.
const STORM: &str = "
DROP INDEX actions_incident;
DROP INDEX actions_target;
DROP INDEX actions_playbook;
CREATE INDEX actions_step ON actions(incident, playbook, step, target, generation);
CREATE INDEX actions_cause ON actions(cause) WHERE cause <> '';
CREATE INDEX actions_newest ON actions(incident, planned_us);
CREATE INDEX actions_waiting ON actions(incident) WHERE state IN ('planned', 'awaiting_approval', 'ready');
CREATE INDEX actions_done ON actions(incident) WHERE state = 'done';
CREATE INDEX actions_left ON actions(incident)
  WHERE state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'failed', 'dead', 'observed')
    OR (state = 'suppressed' AND needs_person);
CREATE INDEX timeline_see_also ON timeline(incident, text) WHERE kind = 'linked';
CREATE INDEX incident_principals_principal ON incident_principals(principal);
CREATE INDEX acting_target ON actions(target, attribute, planned_us)
  WHERE state IN ('planned', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
CREATE INDEX acting_playbook ON actions(playbook, planned_us)
  WHERE state IN ('planned', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
CREATE INDEX acting_kind ON actions(kind, planned_us)
  WHERE state IN ('planned', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
";

/// Which action wanted back a change that an alert was about: a change that nothing wanted back is one
/// that a later restore may go back to.
const OFFENCES: &str = "
ALTER TABLE offences ADD COLUMN action TEXT;
UPDATE offences SET action = (SELECT id FROM actions WHERE kind = 'restore_key_policy' AND cause = event_id LIMIT 1);
ALTER TABLE alias_offences ADD COLUMN action TEXT;
UPDATE alias_offences SET action = (SELECT id FROM actions WHERE kind = 'alias_restore' AND cause = event_id LIMIT 1);
";

/// What waits for people counts where guards count what acts, or whoever causes it again and again would page without end.
const WAITING_COUNTS: &str = "
DROP INDEX acting_target;
DROP INDEX acting_playbook;
DROP INDEX acting_kind;
CREATE INDEX acting_target ON actions(target, attribute, planned_us)
  WHERE state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
CREATE INDEX acting_playbook ON actions(playbook, planned_us)
  WHERE state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
CREATE INDEX acting_kind ON actions(kind, planned_us)
  WHERE state IN ('planned', 'awaiting_approval', 'ready', 'leased', 'done', 'failed') AND undo_of IS NULL;
";

/// Actions whose call was out when the incident was undone: what comes of them is taken back.
const UNDO_WANTED: &str = "
ALTER TABLE actions ADD COLUMN undo_wanted INTEGER NOT NULL DEFAULT 0;
";

/// Rules that were ever in force: alerts of the last ones may come after the change to the next.
const ALLOWED_RULES: &str = "
CREATE TABLE allowed_rules(id TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY(id, hash)) STRICT;
";

/// When somebody looked at an incident first: `acknowledged_us` goes when it is opened again or becomes worse.
const FIRST_ACKNOWLEDGED: &str = "
ALTER TABLE incidents ADD COLUMN first_acknowledged_us INTEGER;
UPDATE incidents SET first_acknowledged_us = acknowledged_us;
";
