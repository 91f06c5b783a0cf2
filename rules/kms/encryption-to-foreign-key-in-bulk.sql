-- +++
-- id = "encryption-to-foreign-key-in-bulk"
-- version = 1
-- kind = "threshold"
-- title = "Much data is encrypted under a stranger's key"
-- description = "Object after object is written under a key that its owner does not have: extortion at work."
-- false_positives = ["a migration to a partner: put its account on the list first"]
-- blind_spots = ["one object at a time: see encryption-to-foreign-key"]
-- window = "10m"
-- group_key = ["principal_arn"]
-- dedup_period = "1h"
-- params = { limit = 50 }
-- threshold = { column = "calls", gte = "$limit" }
-- severity = "critical"
-- attack = ["T1486"]
--
-- [[test]]
-- name = "fifty in ten minutes fire once"
-- given = { fixture = "re-encrypt", set = { "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" }, repeat = 50, spread = "9m", shuffle = true, duplicate = true }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "forty-nine stay quiet"
-- given = { fixture = "re-encrypt", set = { "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" }, repeat = 49, spread = "9m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "fifty of which the first is just outside the window stay quiet"
-- given = { fixture = "re-encrypt", set = { "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" }, repeat = 50, spread = "10m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "under an own key stays quiet"
-- given = { fixture = "re-encrypt", repeat = 100, spread = "5m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "refused calls stay quiet"
-- given = { fixture = "re-encrypt", set = { errorCode = "AccessDenied", "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" }, repeat = 60, spread = "5m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "reading with a stranger's key stays quiet"
-- given = { fixture = "decrypt", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f", "resources.0.accountId" = "999988887777" }, repeat = 60, spread = "5m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "an owner that is no account cannot be judged and stays quiet"
-- given = { fixture = "decrypt", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f", "resources.0.accountId" = "unknown", eventName = "GenerateDataKey" }, repeat = 60, spread = "5m" }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, count(*) AS calls, min(event_time) AS first_call, max(source_ip) AS source_ip
FROM events
WHERE event_name IN ('ReEncrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext') AND error_code IS NULL
  AND coalesce(CASE WHEN event_name = 'ReEncrypt' THEN arn_account(json_get_str(request_parameters, 'destinationKeyId')) END, key_account) <> principal_account
  AND NOT is_trusted_account(coalesce(CASE WHEN event_name = 'ReEncrypt' THEN arn_account(json_get_str(request_parameters, 'destinationKeyId')) END, key_account))
GROUP BY principal_arn
