-- +++
-- id = "disabled-key-used"
-- version = 1
-- kind = "threshold"
-- title = "A key that is disabled or about to be deleted is still in use"
-- description = "Someone depends on a key that no longer answers: either an attack has begun to hurt, or a retirement was planned wrongly. Both error names occur, depending on the key's state."
-- false_positives = ["clients that retry for long after a planned retirement"]
-- blind_spots = ["users who cache data keys ask late"]
-- window = "10m"
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1h"
-- params = { limit = 5 }
-- threshold = { column = "failures", gte = "$limit" }
-- severity = "high"
-- attack = ["T1489"]
--
-- [[test]]
-- name = "five failures fire once"
-- given = { fixture = "decrypt", set = { errorCode = "DisabledException" }, repeat = 5, spread = "5m" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "pending deletion counts as well"
-- given = [
--   { fixture = "decrypt", set = { errorCode = "DisabledException" }, repeat = 3, spread = "10s" },
--   { fixture = "decrypt", set = { errorCode = "KMSInvalidStateException", eventName = "GenerateDataKey" }, repeat = 2, at = "1m" },
-- ]
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "four stay quiet"
-- given = { fixture = "decrypt", set = { errorCode = "DisabledException" }, repeat = 4, spread = "1m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "five of which the first is just outside the window stay quiet"
-- given = { fixture = "decrypt", set = { errorCode = "DisabledException" }, repeat = 5, spread = "10m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "calls that work, looking and services stay quiet"
-- given = [
--   { fixture = "decrypt", repeat = 10, spread = "1m" },
--   { fixture = "describe-key", set = { errorCode = "DisabledException" }, repeat = 10, spread = "1m" },
--   { fixture = "decrypt", set = { errorCode = "DisabledException", "userIdentity.type" = "AWSService" }, repeat = 10, spread = "1m" },
-- ]
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, count(*) AS failures, min(event_time) AS first_failure, max(error_code) AS error_code
FROM events
WHERE error_code IN ('DisabledException', 'KMSInvalidStateException')
  AND event_name IN ('Decrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext', 'ReEncrypt')
  AND actor_class <> 'service'
GROUP BY principal_arn, key_arn
