-- +++
-- id = "key-unused"
-- version = 1
-- kind = "posture"
-- title = "A key has not been used for 90 days"
-- description = "Nothing was encrypted, decrypted or signed with the key for 90 days. Keys that nobody misses are keys that nobody watches."
-- false_positives = ["keys of archives"]
-- blind_spots = ["use before the log begins"]
-- schedule = "1d"
-- group_key = ["key_arn"]
-- dedup_period = "7d"
-- severity = "low"
-- attack = ["T1078.004"]
--
-- [[test]]
-- name = "never used in 90 days"
-- given = { fixture = "put-key-policy" }
-- at = "2026-04-06T13:00:00Z"
-- expect = { alerts = 1, severity = "low" }
--
-- [[test]]
-- name = "used a month ago stays quiet"
-- given = [{ fixture = "put-key-policy" }, { fixture = "decrypt", at = "2026-03-06T12:00:00Z" }]
-- at = "2026-04-06T13:00:00Z"
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "refused calls are no use"
-- given = [{ fixture = "put-key-policy" }, { fixture = "decrypt", set = { errorCode = "AccessDenied" }, at = "2026-03-06T12:00:00Z" }]
-- at = "2026-04-06T13:00:00Z"
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a young key stays quiet"
-- given = { fixture = "put-key-policy" }
-- expect = { alerts = 0 }
-- +++
SELECT k.key_arn, k.account, k.region, k.description, k.created_at, max(e.event_time) AS last_used
FROM keys k LEFT JOIN events e ON e.key_arn = k.key_arn AND e.error_code IS NULL AND e.event_name IN
  ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext',
   'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
  AND e.event_time >= now() - INTERVAL '90 days'
WHERE k.key_state NOT IN ('Deleted', 'PendingDeletion', 'PendingReplicaDeletion') AND k.key_manager = 'CUSTOMER' AND k.created_at < now() - INTERVAL '90 days'
GROUP BY k.key_arn, k.account, k.region, k.description, k.created_at
HAVING count(e.seq) = 0
