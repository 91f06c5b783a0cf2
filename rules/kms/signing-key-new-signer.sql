-- +++
-- id = "signing-key-new-signer"
-- version = 1
-- kind = "first_seen"
-- title = "A signing or MAC key has a new signer"
-- description = "Who signs releases, documents or tokens changes rarely. A new signer can make whatever it likes pass as genuine. Sessions of a role count for the role."
-- false_positives = ["a new release pipeline"]
-- blind_spots = ["a thief who holds the credential of the usual signer: see sign-spike", "the first two weeks of a log"]
-- runbook = "Ask the owner of the key whether the principal may sign. If not, disable the key and keep the event ids: each is a signature that may have to be revoked."
-- group_key = ["principal", "key_arn"]
-- dedup_period = "1d"
-- params = { per_hour = 20 }
-- first_seen = { keys = ["principal", "key_arn"], history = "90d", learning = "14d", max_new_per_hour = "$per_hour" }
-- severity = "CASE WHEN event_name = 'Sign' THEN 'high' ELSE 'medium' END"
-- attack = ["T1553.002"]
--
-- [[test]]
-- name = "a new signer fires once"
-- history = { fixture = "decrypt", set = { eventName = "Sign", "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 5, spread = "2h" }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the first signature ever in a learned log fires"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a new maker of MACs is medium"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "GenerateMac" } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "the usual signer stays quiet"
-- history = { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" }, repeat = 5, spread = "2h" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a signer of ninety days ago is known"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "15d" },
--   { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "1h", ago = "2159h" },
-- ]
-- given = { fixture = "decrypt", set = { eventName = "Sign" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a signer of an hour earlier is new again"
-- history = [
--   { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "15d" },
--   { fixture = "decrypt", set = { eventName = "Sign" }, every = "1h", for = "1h", ago = "2160h" },
-- ]
-- given = { fixture = "decrypt", set = { eventName = "Sign" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "a log of thirteen days is still learned"
-- history = { fixture = "decrypt", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/other" }, every = "1h", for = "13d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service that signs for its user stays quiet"
-- history = { fixture = "decrypt", every = "1h", for = "15d" }
-- given = { fixture = "decrypt", set = { eventName = "Sign", "userIdentity.invokedBy" = "acm-pca.amazonaws.com" } }
-- expect = { alerts = 0 }
-- +++
SELECT CASE WHEN principal_arn LIKE 'arn:%:sts::%:assumed-role/%'
            THEN split_part(principal_arn, '/', 1) || '/' || split_part(principal_arn, '/', 2)
            ELSE principal_arn END AS principal,
       key_arn, principal_arn, account, region, event_name, event_id, event_time, source_ip, user_agent, actor_class,
       decided_by
FROM events
WHERE event_name IN ('Sign', 'GenerateMac')
  AND error_code IS NULL AND invoked_by IS NULL AND actor_class IN ('user', 'root', 'role')
