-- +++
-- id = "service-path-bypassed"
-- version = 1
-- kind = "first_seen"
-- title = "A principal uses a key directly that it only ever used through a service"
-- description = "Data behind S3, EBS or a database is decrypted by the service for its user. The same principal that calls the key itself has taken the wrapped data keys out and decrypts them elsewhere. The column path is null for calls through a service: they teach that the pair is known, and are never news."
-- false_positives = ["an application that begins to encrypt on the client side"]
-- blind_spots = ["a pair that is younger than two weeks", "a thief who reads through the service"]
-- runbook = "Find what the principal decrypted: the encryption context names the bucket, volume or table. If the owner of the data does not know of a change, quarantine the principal and require kms:ViaService in the key's policy."
-- group_key = ["principal", "key_arn"]
-- dedup_period = "1d"
-- params = { per_hour = 20 }
-- first_seen = { keys = ["principal", "key_arn", "path"], per = ["principal", "key_arn"], history = "30d", learning = "14d", max_new_per_hour = "$per_hour" }
-- severity = "CASE WHEN event_name IN ('Decrypt', 'ReEncrypt') THEN 'high' ELSE 'medium' END"
-- attack = ["T1078.004"]
--
-- [[test]]
-- name = "a direct decryption after two weeks through a service fires once"
-- history = { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "15d" }
-- given = { fixture = "decrypt", repeat = 5, spread = "2h" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "encrypting directly is medium"
-- history = { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "Encrypt" } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "a pair of thirteen days is still learned"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "15d" },
--   { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "13d" },
-- ]
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a direct use of thirty days ago is known"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "40d" },
--   { fixture = "decrypt", every = "1h", for = "1h", ago = "719h" },
-- ]
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a direct use of an hour earlier is news again"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "40d" },
--   { fixture = "decrypt", every = "1h", for = "1h", ago = "720h" },
-- ]
-- given = { fixture = "decrypt" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "whoever used both ways stays quiet"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, every = "1h", for = "15d" },
--   { fixture = "decrypt", every = "1d", for = "15d" },
-- ]
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "the service stays quiet, also for a pair that was always direct"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" }, repeat = 5, spread = "1h" }
-- expect = { alerts = 0 }
-- +++
SELECT CASE WHEN principal_arn LIKE 'arn:%:sts::%:assumed-role/%'
            THEN split_part(principal_arn, '/', 1) || '/' || split_part(principal_arn, '/', 2)
            ELSE principal_arn END AS principal,
       key_arn, CASE WHEN invoked_by IS NULL THEN 'direct' END AS path,
       principal_arn, account, region, event_name, event_id, event_time, source_ip, user_agent, enc_context, actor_class
FROM events
WHERE event_name IN ('Decrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext',
                     'GenerateDataKeyWithoutPlaintext', 'ReEncrypt')
  AND error_code IS NULL AND actor_class IN ('user', 'root', 'role')
