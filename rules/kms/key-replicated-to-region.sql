-- +++
-- id = "key-replicated-to-region"
-- version = 1
-- kind = "event"
-- title = "A key was replicated to a region that is not on the list"
-- description = "The replica has the same material, a policy of its own, and nobody may be watching there. The site names its regions in params.toml, as a regular expression."
-- false_positives = ["a region that is new to the site"]
-- blind_spots = ["keys made in that region directly"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1m"
-- params = { regions = "^eu-" }
-- severity = "high"
-- attack = ["T1535"]
--
-- [[test]]
-- name = "a region that is not on the list"
-- given = { fixture = "replicate-key" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "one that is on the list stays quiet"
-- given = { fixture = "replicate-key", set = { "requestParameters.replicaRegion" = "eu-central-1" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "repeats within a minute are one alert"
-- given = { fixture = "replicate-key", repeat = 3, spread = "20s" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "replicate-key", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, json_get_str(request_parameters, 'replicaRegion') AS replica_region
FROM events
WHERE event_name = 'ReplicateKey' AND error_code IS NULL
  AND NOT regexp_like(json_get_str(request_parameters, 'replicaRegion'), $regions)
