-- +++
-- id = "key-material-expired"
-- version = 1
-- kind = "event"
-- title = "Imported key material has expired"
-- description = "The key cannot be used until the same material is imported again. Nobody called for it: the date was set when the material came."
-- false_positives = ["material that is replaced by a successor in time"]
-- blind_spots = ["material that will expire soon: see the posture check on expiring material"]
-- runbook = "Import the same material again, with a later end or none; the key works at once. key_material_id says which material it was."
-- attack = ["T1485"]
-- compliance = ["NIST 800-53 SC-12(1)", "PCI DSS 4.0.1 3.7.4"]
-- status = "stable"
-- confidence = "high"
-- group_key = ["key_arn"]
-- dedup_period = "1h"
-- severity = "high"
--
-- [[test]]
-- name = "material expires"
-- given = { fixture = "delete-expired-key-material" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "repeats for one key are one alert"
-- given = [
--   { fixture = "delete-expired-key-material", repeat = 3, spread = "20m" },
--   { fixture = "delete-expired-key-material", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:111122223333:key/other" }, at = "5m" },
-- ]
-- expect = { alerts = 2 }
--
-- [[test]]
-- name = "a person who deletes material stays quiet"
-- given = { fixture = "delete-key-material" }
-- expect = { alerts = 0 }
-- +++
SELECT key_arn, account, region, event_id, event_time, actor_class,
       json_get_str(additional, 'serviceEventDetails', 'keyMaterialId') AS key_material_id
FROM events
WHERE event_name = 'DeleteExpiredKeyMaterial'
