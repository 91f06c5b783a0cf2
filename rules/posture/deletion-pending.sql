-- +++
-- id = "deletion-pending"
-- version = 1
-- kind = "posture"
-- title = "A key waits for its deletion"
-- description = "Once the date has come, nothing that was encrypted with the key can be read again. Whoever needs it has until then to cancel."
-- false_positives = ["keys that are given up on purpose"]
-- blind_spots = ["keys of other accounts"]
-- schedule = "1h"
-- group_key = ["key_arn"]
-- dedup_period = "7d"
-- severity = "CASE WHEN days_left < 7 THEN 'critical' ELSE 'high' END"
-- attack = ["T1485"]
-- labels = { control = "KMS.3" }
--
-- [[test]]
-- name = "ten days before"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.keyState" = "PendingDeletion", "additionalEventData.after.deletionDate" = "2026-01-15T13:00:00Z" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "three days before"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.after.keyState" = "PendingDeletion", "additionalEventData.after.deletionDate" = "2026-01-15T13:00:00Z" } }
-- at = "2026-01-12T13:00:00Z"
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "cancelled stays quiet"
-- given = [{ fixture = "put-key-policy", set = { "additionalEventData.after.keyState" = "PendingDeletion", "additionalEventData.after.deletionDate" = "2026-01-15T13:00:00Z" } }, { fixture = "put-key-policy", set = { "additionalEventData.after.keyState" = "Disabled" }, at = "1h" }]
-- expect = { alerts = 0 }
-- +++
SELECT key_arn, account, region, description, deletion_date, (date_part('epoch', deletion_date) - date_part('epoch', now())) / 86400 AS days_left,
       last_event_id AS event_id
FROM keys
WHERE key_state IN ('PendingDeletion', 'PendingReplicaDeletion')
