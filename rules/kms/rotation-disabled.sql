-- +++
-- id = "rotation-disabled"
-- version = 1
-- kind = "event"
-- title = "A key rotates no more, or more rarely"
-- description = "Material that is in use for longer is worth more to whoever gets hold of it, and audits ask for the rotation."
-- false_positives = ["a change of the rotation policy"]
-- blind_spots = ["keys that never rotated: see the posture checks"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1h"
-- severity = "medium"
-- attack = ["T1562"]
--
-- [[test]]
-- name = "rotation is switched off"
-- given = { fixture = "disable-key-rotation" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "a longer period"
-- given = { fixture = "enable-key-rotation", set = { "additionalEventData.before.rotationPeriodInDays" = 180 } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "the same period stays quiet"
-- given = { fixture = "enable-key-rotation", set = { "additionalEventData.before.rotationPeriodInDays" = 365 } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "switched on for the first time stays quiet"
-- given = { fixture = "enable-key-rotation" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "off and off again within the hour is one alert"
-- given = { fixture = "disable-key-rotation", repeat = 3, spread = "30m" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "disable-key-rotation", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a rotation by hand stays quiet"
-- given = { fixture = "enable-key-rotation", set = { eventName = "RotateKeyOnDemand", "additionalEventData.before.rotationPeriodInDays" = 180 } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, event_name, json_get_int(additional, 'before', 'rotationPeriodInDays') AS days_before,
       json_get_int(additional, 'after', 'rotationPeriodInDays') AS days_after
FROM events
WHERE event_name IN ('DisableKeyRotation', 'EnableKeyRotation') AND error_code IS NULL
  AND (event_name = 'DisableKeyRotation'
    OR json_get_int(additional, 'after', 'rotationPeriodInDays') > json_get_int(additional, 'before', 'rotationPeriodInDays'))
