-- +++
-- id = "first-seen-network"
-- version = 1
-- kind = "first_seen"
-- title = "A principal calls from a network that it never called from"
-- description = "A network is the /24 of an IPv4 address or the /48 of an IPv6 address. Each principal is learned for itself, so that a new colleague is not an alert; only direct calls count, as those through a service do not show the client."
-- false_positives = ["people who travel, or whose provider gives them another address", "a workload that moved to another subnet"]
-- blind_spots = ["an attacker inside a known network or behind the same exit", "the first two weeks of each principal", "which provider a network belongs to is not known here"]
-- runbook = "Look up who owns the network, and ask the person. For a workload: does a deployment explain the move? If not, replace the credential and look at its calls from this network."
-- group_key = ["principal", "network"]
-- dedup_period = "1d"
-- params = { per_hour = 20 }
-- first_seen = { keys = ["principal", "network"], per = ["principal"], history = "30d", learning = "14d", max_new_per_hour = "$per_hour" }
-- severity = "CASE WHEN actor_class IN ('user', 'root') AND NOT coalesce(mfa, false) THEN 'medium' ELSE 'low' END"
-- attack = ["T1078.004"]
--
-- [[test]]
-- name = "a user without a second factor in another /24 fires once"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" }, repeat = 5, spread = "2h" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "with a second factor it is low"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7", "userIdentity.sessionContext.attributes.mfaAuthenticated" = "true" } }
-- expect = { alerts = 1, severity = "low" }
--
-- [[test]]
-- name = "another /48 fires, another address in it does not"
-- history = { fixture = "decrypt", set = { sourceIPAddress = "2001:db8:1:2::3" }, every = "1h", for = "15d" }
-- given = [
--   { fixture = "decrypt", set = { sourceIPAddress = "2001:db8:1:ffff::3" } },
--   { fixture = "decrypt", set = { sourceIPAddress = "2001:db8:2::3" }, at = "1m" },
-- ]
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "another address in the same /24 stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { sourceIPAddress = "192.0.2.250" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a network of thirty days ago is known"
-- history = [
--   { fixture = "decrypt", every = "1h", for = "15d" },
--   { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" }, every = "1h", for = "1h", ago = "719h" },
-- ]
-- given = { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a network of an hour earlier is new again"
-- history = [
--   { fixture = "decrypt", every = "1h", for = "30d" },
--   { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" }, every = "1h", for = "1h", ago = "720h" },
-- ]
-- given = { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a principal of thirteen days is still learned"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "15d" },
--   { fixture = "decrypt", every = "1h", for = "13d" },
-- ]
-- given = { fixture = "decrypt", set = { sourceIPAddress = "198.51.100.7" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service that calls for its user stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { sourceIPAddress = "s3.amazonaws.com", "userIdentity.invokedBy" = "s3.amazonaws.com" } }
-- expect = { alerts = 0 }
-- +++
SELECT CASE WHEN principal_arn LIKE 'arn:%:sts::%:assumed-role/%'
            THEN split_part(principal_arn, '/', 1) || '/' || split_part(principal_arn, '/', 2)
            ELSE principal_arn END AS principal,
       CASE WHEN source_ip LIKE '%:%'
            THEN split_part(source_ip, ':', 1) || ':' || split_part(source_ip, ':', 2) || ':' || split_part(source_ip, ':', 3) || '::/48'
            ELSE split_part(source_ip, '.', 1) || '.' || split_part(source_ip, '.', 2) || '.' || split_part(source_ip, '.', 3) || '.0/24'
            END AS network,
       principal_arn, source_ip, user_agent, account, region, event_name, event_id, event_time, key_arn, actor_class, mfa
FROM events
WHERE error_code IS NULL AND invoked_by IS NULL AND actor_class IN ('user', 'root', 'role')
  AND source_ip NOT LIKE '%.amazonaws.com' AND source_ip <> 'AWS Internal'
