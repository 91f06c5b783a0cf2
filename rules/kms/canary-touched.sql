-- +++
-- id = "canary-touched"
-- version = 1
-- kind = "event"
-- title = "A canary was touched"
-- description = "A key or an access key that nobody uses, planted to be found. Whoever touches it was looking for something to take, or is an inventory that should know better. `keytrail canary` makes them and names them in params.toml."
-- false_positives = ["an inventory or a backup that reads every key"]
-- blind_spots = ["lists of keys, which name no key"]
-- runbook = "Find where the touched credential was planted: that machine or repository was read. Then ask keytrail blast-radius what else the caller used."
-- group_key = ["principal_arn", "key_arn", "access_key_id"]
-- dedup_period = "1h"
-- params = { keys = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-0000000000ca", credentials = "AKIAEXAMPLECANARY000" }
-- severity = "critical"
-- attack = ["T1078.004", "T1580"]
--
-- [[test]]
-- name = "a look at a canary key fires"
-- given = { fixture = "describe-key", set = { resources = [{ ARN = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-0000000000ca", accountId = "111122223333", type = "AWS::KMS::Key" }] } }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "a refused call with a canary credential fires"
-- given = { fixture = "decrypt", set = { errorCode = "AccessDenied", "userIdentity.accessKeyId" = "AKIAEXAMPLECANARY000" }, repeat = 3 }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "other keys and credentials stay quiet"
-- given = [
--   { fixture = "describe-key" },
--   { fixture = "decrypt", repeat = 5 },
--   { fixture = "decrypt", set = { "userIdentity.accessKeyId" = "AKIAEXAMPLECANARY00" } },
-- ]
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "making one stays quiet"
-- given = { fixture = "create-key-public", set = { resources = [{ ARN = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-0000000000ca", accountId = "111122223333", type = "AWS::KMS::Key" }] } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "what the responder and the trail look at stays quiet"
-- given = { fixture = "responder-disable-key", set = { resources = [{ ARN = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-0000000000ca", accountId = "111122223333", type = "AWS::KMS::Key" }] } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, access_key_id, account, region, event_name, event_id, event_time, error_code, source_ip, user_agent
FROM events
WHERE (strpos(concat(' ', $keys, ' '), concat(' ', key_arn, ' ')) > 0
    OR strpos(concat(' ', $credentials, ' '), concat(' ', access_key_id, ' ')) > 0)
  AND event_name <> 'CreateKey' AND actor_class NOT IN ('responder', 'trail')
