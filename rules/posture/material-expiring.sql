-- +++
-- id = "material-expiring"
-- version = 1
-- kind = "posture"
-- title = "Imported key material expires soon"
-- description = "When it does, the service deletes the material at once, without a waiting period, and nothing can be decrypted until it is imported again."
-- false_positives = ["material that is replaced on a schedule"]
-- blind_spots = ["further materials of a key with several"]
-- schedule = "1h"
-- group_key = ["key_arn"]
-- dedup_period = "7d"
-- severity = "CASE WHEN days_left < 7 THEN 'high' ELSE 'medium' END"
-- attack = ["T1485"]
--
-- [[test]]
-- name = "twenty days before"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.origin" = "EXTERNAL", "additionalEventData.after.expirationModel" = "KEY_MATERIAL_EXPIRES", "additionalEventData.after.validTo" = "2026-01-25T12:00:00Z" } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "three days before"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.origin" = "EXTERNAL", "additionalEventData.after.expirationModel" = "KEY_MATERIAL_EXPIRES", "additionalEventData.after.validTo" = "2026-01-25T12:00:00Z" } }
-- at = "2026-01-22T12:00:00Z"
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "two months before stays quiet"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.origin" = "EXTERNAL", "additionalEventData.after.expirationModel" = "KEY_MATERIAL_EXPIRES", "additionalEventData.after.validTo" = "2026-03-25T12:00:00Z" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "material without an end stays quiet"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.origin" = "EXTERNAL", "additionalEventData.after.expirationModel" = "KEY_MATERIAL_DOES_NOT_EXPIRE" } }
-- expect = { alerts = 0 }
-- +++
SELECT k.key_arn, k.account, k.region, k.material_valid_to, (date_part('epoch', k.material_valid_to) - date_part('epoch', now())) / 86400 AS days_left,
       k.last_event_id AS event_id
FROM keys k
WHERE k.key_state NOT IN ('Deleted', 'PendingDeletion', 'PendingReplicaDeletion') AND k.material_valid_to < now() + INTERVAL '30 days'
