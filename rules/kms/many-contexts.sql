-- +++
-- id = "many-contexts"
-- version = 1
-- kind = "threshold"
-- title = "One principal decrypts under many encryption contexts"
-- description = "Each tenant, file or secret has a context of its own: a sweep through them is someone collecting, not an application at work."
-- false_positives = ["a service that serves all tenants from one principal: set limit above their number"]
-- blind_spots = ["data encrypted without a context"]
-- window = "5m"
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "6h"
-- params = { limit = 20 }
-- threshold = { column = "contexts", gte = "$limit" }
-- severity = "CASE WHEN contexts >= 5 * $limit THEN 'high' ELSE 'medium' END"
-- attack = ["T1555.006"]
--
-- [[test]]
-- name = "a sweep fires once"
-- given = { fixture = "decrypt", vary = "requestParameters.encryptionContext.tenant", repeat = 25, spread = "4s" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "a long sweep is high"
-- given = { fixture = "decrypt", vary = "requestParameters.encryptionContext.tenant", repeat = 100, spread = "1m" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the same secret in a loop stays quiet"
-- given = { fixture = "decrypt", repeat = 300, spread = "1m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "nineteen contexts stay quiet however often they are used"
-- given = [
--   { fixture = "decrypt", vary = "requestParameters.encryptionContext.tenant", repeat = 19, spread = "1m" },
--   { fixture = "decrypt", vary = "requestParameters.encryptionContext.tenant", repeat = 19, spread = "1m", at = "2m" },
-- ]
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "contexts that went by before the window stay quiet"
-- given = { fixture = "decrypt", vary = "requestParameters.encryptionContext.tenant", repeat = 40, spread = "20m" }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, count(DISTINCT enc_context) AS contexts, count(*) AS decrypts,
       min(event_time) AS first_decrypt
FROM events
WHERE event_name = 'Decrypt' AND error_code IS NULL AND actor_class <> 'service'
GROUP BY principal_arn, key_arn
