-- +++
-- id = "encryption-to-foreign-key"
-- version = 1
-- kind = "event"
-- title = "Data is encrypted under a stranger's key"
-- description = "The key belongs to an account that is neither the caller's nor trusted by the site: what is written under it can be read by its owner, and taken hostage."
-- false_positives = ["a partner's key that is not on the list yet: params.toml, [site] trusted_accounts"]
-- blind_spots = ["keys outside this service"]
-- group_key = ["principal_arn", "key_owner"]
-- dedup_period = "1h"
-- severity = "high"
-- attack = ["T1486"]
--
-- [[test]]
-- name = "encrypting anew under a stranger's key"
-- given = { fixture = "re-encrypt", set = { "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a data key of a stranger's key"
-- given = { fixture = "decrypt", set = { eventName = "GenerateDataKey", "resources.0.ARN" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f", "resources.0.accountId" = "999988887777" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "many calls within the hour are one alert"
-- given = { fixture = "re-encrypt", set = { "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" }, repeat = 20, spread = "30m" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "under an own key stays quiet"
-- given = { fixture = "re-encrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "reading with a stranger's key stays quiet"
-- given = { fixture = "decrypt", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f", "resources.0.accountId" = "999988887777" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "re-encrypt", set = { errorCode = "AccessDenied", "requestParameters.destinationKeyId" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "an owner that is no account cannot be judged and stays quiet"
-- given = { fixture = "decrypt", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:999988887777:key/0199b000-9999-7000-8000-00000000000f", "resources.0.accountId" = "unknown", eventName = "GenerateDataKey" } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, event_name,
       coalesce(CASE WHEN event_name = 'ReEncrypt' THEN arn_account(json_get_str(request_parameters, 'destinationKeyId')) END, key_account) AS key_owner
FROM events
WHERE event_name IN ('ReEncrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext') AND error_code IS NULL
  AND coalesce(CASE WHEN event_name = 'ReEncrypt' THEN arn_account(json_get_str(request_parameters, 'destinationKeyId')) END, key_account) <> principal_account
  AND NOT is_trusted_account(coalesce(CASE WHEN event_name = 'ReEncrypt' THEN arn_account(json_get_str(request_parameters, 'destinationKeyId')) END, key_account))
