-- +++
-- id = "grant-stale"
-- version = 1
-- kind = "posture"
-- title = "A grant is old or unlimited"
-- description = "A living grant permits decryption under any encryption context, or is older than 90 days. Grants survive the rotation of credentials and are seen by nobody who reads policies."
-- false_positives = ["services that keep a grant for as long as a volume lives"]
-- blind_spots = ["grants that the log does not have"]
-- schedule = "1h"
-- group_key = ["key_arn", "grant_id"]
-- dedup_period = "7d"
-- severity = "CASE WHEN unlimited THEN 'medium' ELSE 'low' END"
-- attack = ["T1098"]
--
-- [[test]]
-- name = "no constraint"
-- given = { fixture = "create-grant", unset = ["additionalEventData.after.constraints"] }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "ninety days old"
-- given = { fixture = "create-grant" }
-- at = "2026-04-06T13:00:00Z"
-- expect = { alerts = 1, severity = "low" }
--
-- [[test]]
-- name = "young and limited stays quiet"
-- given = { fixture = "create-grant" }
-- at = "2026-04-01T12:00:00Z"
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "revoked stays quiet"
-- given = [{ fixture = "create-grant", unset = ["additionalEventData.after.constraints"] }, { fixture = "revoke-grant", set = { "additionalEventData.grantId" = "0c237476b39f8bc44e45212e08498fbe3151305030726c0590dd8d3e9f3d6a60" }, at = "1h" }]
-- expect = { alerts = 0 }
-- +++
SELECT key_arn, grant_id, grantee_principal, operations, created_at, created_by, event_id,
       constraints IS NULL AND (operations LIKE '%"Decrypt"%' OR operations LIKE '%"ReEncryptFrom"%') AS unlimited
FROM grants
WHERE current AND (created_at < now() - INTERVAL '90 days'
   OR (constraints IS NULL AND (operations LIKE '%"Decrypt"%' OR operations LIKE '%"ReEncryptFrom"%')))
