-- +++
-- id = "key-disabled"
-- version = 1
-- kind = "event"
-- title = "A key was disabled"
-- description = "Everything that needs the key stops. Data keys already handed out keep working, so no errors is not no impact. Our responder's own containment is not news as long as it carries an action id."
-- false_positives = ["maintenance by an administrator"]
-- blind_spots = ["a policy that shuts everyone out has the same effect"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1m"
-- severity = "CASE WHEN actor_class = 'root' OR actor_class = 'responder' THEN 'high' ELSE 'medium' END"
-- attack = ["T1489"]
--
-- [[test]]
-- name = "an administrator disables a key"
-- given = { fixture = "disable-key" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "the account root does"
-- given = { fixture = "disable-key", set = { "userIdentity.type" = "Root", "userIdentity.arn" = "arn:aws:iam::111122223333:root" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the responder's containment stays quiet"
-- given = { fixture = "responder-disable-key" }
-- expect = { alerts = 0, silent = ["responder-without-action"] }
--
-- [[test]]
-- name = "whoever uses the responder's credentials without an action does not"
-- given = { fixture = "responder-disable-key", unset = ["additionalEventData.actionId"] }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "disable-key", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "scheduling its deletion stays quiet"
-- given = { fixture = "schedule-key-deletion" }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, key_state_before, source_ip, user_agent, mfa,
       actor_class
FROM events
WHERE event_name = 'DisableKey' AND error_code IS NULL
  AND (actor_class <> 'responder' OR action_id IS NULL)
