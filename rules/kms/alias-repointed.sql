-- +++
-- id = "alias-repointed"
-- version = 1
-- kind = "event"
-- title = "An alias was moved to another key"
-- description = "Applications that encrypt under the alias use the new key from now on: its owner can read what they write, and can take it away."
-- false_positives = ["a rotation by hand: a new key takes the place of an old one"]
-- blind_spots = ["applications that name keys by their id"]
-- group_key = ["principal_arn", "alias_arn"]
-- dedup_period = "1m"
-- params = { administrators = "(:root|:user/administrator)$" }
-- severity = "CASE WHEN actor_class = 'root' OR NOT regexp_like(principal_arn, $administrators) THEN 'high' ELSE 'medium' END"
-- attack = ["T1565"]
--
-- [[test]]
-- name = "an administrator of keys"
-- given = { fixture = "update-alias" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "somebody else"
-- given = { fixture = "update-alias", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/app" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "to the key that it had stays quiet"
-- given = { fixture = "update-alias", set = { "additionalEventData.after.targetKeyArn" = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-00000000000a" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "repeats within a minute are one alert"
-- given = { fixture = "update-alias", repeat = 3, spread = "20s" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "update-alias", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "an alias that is made stays quiet, for it had no key before"
-- given = { fixture = "update-alias", set = { eventName = "CreateAlias" }, unset = ["additionalEventData.before"] }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, alias_arn,
       json_get_str(additional, 'before', 'targetKeyArn') AS former_key, json_get_str(additional, 'after', 'targetKeyArn') AS new_key
FROM events
WHERE event_name = 'UpdateAlias' AND error_code IS NULL
  AND json_get_str(additional, 'before', 'targetKeyArn') IS DISTINCT FROM json_get_str(additional, 'after', 'targetKeyArn')
