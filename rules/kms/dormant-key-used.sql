-- +++
-- id = "dormant-key-used"
-- version = 1
-- kind = "first_seen"
-- title = "A key is used again after three months of silence"
-- description = "Old backups and archives are what a thief restores first: their keys are forgotten, and so is who may use them. Use through a service wakes a key as well, and is low."
-- false_positives = ["a restore test, a yearly report"]
-- blind_spots = ["keys that were never used since the log began", "a key that something touches now and then"]
-- runbook = "last_seen says how long the key slept. Ask its owner whether an archive is being read; if not, disable the key and see who complains, and list the caller's other calls."
-- group_key = ["key_arn"]
-- dedup_period = "1d"
-- params = { per_hour = 20 }
-- first_seen = { keys = ["key_arn"], history = "90d", max_new_per_hour = "$per_hour", returning = true }
-- severity = "CASE WHEN actor_class = 'service' OR invoked_by IS NOT NULL THEN 'low' ELSE 'medium' END"
-- attack = ["T1078.004"]
--
-- [[test]]
-- name = "a key that slept for more than ninety days fires once"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", repeat = 5, spread = "2h" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "ninety days to the hour stay quiet"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "2159h" }
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service that wakes it is low"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" } }
-- expect = { alerts = 1, severity = "low" }
--
-- [[test]]
-- name = "a service keeps it awake"
-- history = [
--   { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" },
--   { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1d", for = "10d", ago = "60d" },
-- ]
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a key that was never used stays quiet"
-- history = { fixture = "decrypt", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:111122223333:key/other" }, every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", repeat = 5, spread = "2h" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
-- +++
SELECT key_arn, principal_arn, account, region, event_name, event_id, event_time, source_ip, user_agent, enc_context,
       actor_class, invoked_by
FROM events
WHERE event_name IN ('Decrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext',
                     'GenerateDataKeyWithoutPlaintext', 'ReEncrypt',
                     'Sign', 'GenerateMac', 'DeriveSharedSecret')
  AND error_code IS NULL
