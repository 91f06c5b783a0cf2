-- +++
-- id = "sign-spike"
-- version = 1
-- kind = "baseline"
-- title = "One principal signs far more than it ever does"
-- description = "Signatures and MACs are made in bulk with a credential that usually makes few: someone prepares forged artefacts or tokens before access is lost. A principal without a week of past fires above new_limit once the log itself is a week old."
-- false_positives = ["the re-signing of all artefacts after a change of format"]
-- blind_spots = ["one signature that matters", "the first week of a log"]
-- runbook = "Ask the owner of the signing key what was released in this time. If the count does not fit, disable the key, keep the list of request ids as what may have to be revoked, and quarantine the principal."
-- group_key = ["principal"]
-- dedup_period = "1h"
-- params = { floor = 200, k = 3, quantile = 0.999, new_limit = 800 }
-- baseline = { column = "signatures", bucket = "5m", history = "14d", min_history = "7d", method = "quantile", quantile = "$quantile", k = "$k", floor = "$floor", unlearned = "$new_limit" }
-- severity = "CASE WHEN usual_high IS NULL THEN 'medium' WHEN signatures > 10 * threshold THEN 'critical' ELSE 'high' END"
-- attack = ["T1553.002"]
--
-- [[test]]
-- name = "one above the floor fires once"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "14d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 201, spread = "4m" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the floor itself stays quiet"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "14d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 200, spread = "4m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "MACs add up with signatures against three times the usual high"
-- history = { fixture = "decrypt", set = { eventName = "GenerateMac" }, every = "5m", for = "14d", repeat = 100 }
-- given = [
--   { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 155, spread = "4m" },
--   { fixture = "decrypt", set = { eventName = "GenerateMac" }, repeat = 155, spread = "4m" },
-- ]
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "one fewer stays quiet"
-- history = { fixture = "decrypt", set = { eventName = "GenerateMac" }, every = "5m", for = "14d", repeat = 100 }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 309, spread = "4m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "as many in two buckets stay quiet"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "14d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 201, spread = "9m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "two spikes in an hour are one alert"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "14d" }
-- given = [
--   { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 201, spread = "4m" },
--   { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 201, spread = "4m", at = "30m" },
-- ]
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a newcomer fires above the higher limit"
-- history = { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "8d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 801, spread = "4m" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "services stay quiet"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "14d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign", "userIdentity.invokedBy" = "acm-pca.amazonaws.com" }, repeat = 900, spread = "4m" }
-- expect = { alerts = 0 }
-- +++
SELECT CASE WHEN principal_arn LIKE 'arn:%:sts::%:assumed-role/%'
            THEN split_part(principal_arn, '/', 1) || '/' || split_part(principal_arn, '/', 2)
            ELSE principal_arn END AS principal,
       count(*) AS signatures, count(DISTINCT key_arn) AS keys, min(event_time) AS first_signature,
       max(source_ip) AS source_ip
FROM events
WHERE event_name IN ('Sign', 'GenerateMac') AND error_code IS NULL AND actor_class <> 'service' AND invoked_by IS NULL
GROUP BY 1
