-- +++
-- id = "rotation-off"
-- version = 1
-- kind = "posture"
-- title = "A key is never rotated"
-- description = "A symmetric key made by the service has no automatic rotation: what was encrypted with it years ago and today falls with one leak."
-- false_positives = ["keys that an application rotates by making new ones"]
-- blind_spots = ["keys with imported material, and asymmetric ones, which rotate by hand or not at all"]
-- schedule = "1h"
-- group_key = ["key_arn"]
-- dedup_period = "7d"
-- severity = "medium"
-- attack = ["T1552"]
-- labels = { control = "KMS.4" }
--
-- [[test]]
-- name = "a key without rotation"
-- given = { fixture = "put-key-policy" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "a rotating key stays quiet"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.rotationPeriodInDays" = 365, "additionalEventData.after.nextRotationDate" = "2027-01-01T00:00:00Z" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a key of a service stays quiet"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.keyManager" = "AWS" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "an asymmetric key stays quiet"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.keySpec" = "RSA_2048" } }
-- expect = { alerts = 0 }
-- +++
SELECT key_arn, account, region, description, created_at, last_event_id AS event_id
FROM keys
WHERE key_state = 'Enabled' AND key_manager = 'CUSTOMER' AND key_spec = 'SYMMETRIC_DEFAULT' AND origin = 'AWS_KMS'
  AND rotation_period_days IS NULL
