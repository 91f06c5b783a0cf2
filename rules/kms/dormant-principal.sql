-- +++
-- id = "dormant-principal"
-- version = 1
-- kind = "first_seen"
-- title = "A principal is back after three months of silence"
-- description = "Credentials that nobody missed, of people who left or projects that ended, are found in old repositories and backups. Sessions of a role count for the role."
-- false_positives = ["someone back from a long leave", "a job that runs twice a year"]
-- blind_spots = ["principals that were never seen since the log began", "refused calls: see denied-burst"]
-- runbook = "last_seen says how long it was away. Ask its owner; if there is none any more, deactivate the access key and look what the credential did. A change among its first calls is high."
-- group_key = ["principal"]
-- dedup_period = "1d"
-- params = { per_hour = 20 }
-- first_seen = { keys = ["principal"], history = "90d", max_new_per_hour = "$per_hour", returning = true }
-- severity = "CASE WHEN coalesce(read_only, false) THEN 'medium' ELSE 'high' END"
-- attack = ["T1078.004"]
--
-- [[test]]
-- name = "a user who was away for more than ninety days fires once"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", repeat = 5, spread = "2h" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "whose first call is a change is high"
-- history = { fixture = "disable-key", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "disable-key" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "ninety days to the hour stay quiet"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "2159h" }
-- given = { fixture = "decrypt" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a principal that was never seen stays quiet"
-- history = { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", repeat = 5, spread = "2h" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service that calls for its user stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", set = { "userIdentity.invokedBy" = "s3.amazonaws.com" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "10d", ago = "90d" }
-- given = { fixture = "decrypt", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
-- +++
SELECT CASE WHEN principal_arn LIKE 'arn:%:sts::%:assumed-role/%'
            THEN split_part(principal_arn, '/', 1) || '/' || split_part(principal_arn, '/', 2)
            ELSE principal_arn END AS principal,
       principal_arn, account, region, event_name, event_id, event_time, key_arn, source_ip, user_agent, read_only,
       actor_class
FROM events
WHERE error_code IS NULL AND invoked_by IS NULL AND actor_class IN ('user', 'root', 'role')
