-- +++
-- id = "decrypt-spike"
-- version = 1
-- kind = "threshold"
-- title = "One principal decrypts far more than usual"
-- description = "Bulk decryption by a stolen credential. The threshold is fixed and meant to be set per site until it follows each principal's own past."
-- false_positives = ["batch jobs and migrations: set limit above their rate"]
-- blind_spots = ["a patient thief below the limit; use of data keys that were decrypted once"]
-- window = "5m"
-- group_key = ["principal_arn"]
-- dedup_period = "1h"
-- params = { limit = 500 }
-- threshold = { column = "decrypts", gte = "$limit" }
-- severity = "high"
-- attack = ["T1555.006"]
--
-- [[test]]
-- name = "five hundred in two minutes fire once"
-- given = { fixture = "decrypt", repeat = 500, spread = "2m" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "one below the limit stays quiet"
-- given = { fixture = "decrypt", repeat = 499, spread = "2m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a steady application stays quiet"
-- given = { fixture = "decrypt", repeat = 1200, spread = "20m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "services stay quiet"
-- given = { fixture = "decrypt", set = { "userIdentity.type" = "AWSService" }, repeat = 600, spread = "1m" }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, count(*) AS decrypts, count(DISTINCT key_arn) AS keys, min(event_time) AS first_decrypt
FROM events
WHERE event_name = 'Decrypt' AND error_code IS NULL AND actor_class <> 'service'
GROUP BY principal_arn
