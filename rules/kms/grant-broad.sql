-- +++
-- id = "grant-broad"
-- version = 1
-- kind = "event"
-- title = "A grant gives more than a use needs"
-- description = "The grantee may hand the grant on (CreateGrant), or may decrypt whatever the key encrypted because no encryption context is asked for."
-- false_positives = ["an application that uses no encryption context"]
-- blind_spots = ["services, which are left out: they retire their grants by themselves"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1h"
-- severity = "medium"
-- attack = ["T1098"]
--
-- [[test]]
-- name = "decrypting without a constraint"
-- given = { fixture = "create-grant", unset = ["additionalEventData.after.constraints"] }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "handing it on, also behind a constraint"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.operations" = ["Encrypt", "CreateGrant"] } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "decrypting behind a constraint stays quiet"
-- given = { fixture = "create-grant" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "encrypting only stays quiet"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.operations" = ["Encrypt", "DescribeKey"] }, unset = ["additionalEventData.after.constraints"] }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service stays quiet"
-- given = { fixture = "create-grant", set = { "userIdentity.invokedBy" = "ec2.amazonaws.com" }, unset = ["additionalEventData.after.constraints"] }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "another operation and a refused attempt stay quiet"
-- given = [
--   { fixture = "create-grant", set = { eventName = "RetireGrant" }, unset = ["additionalEventData.after.constraints"] },
--   { fixture = "create-grant", set = { errorCode = "AccessDenied" }, unset = ["additionalEventData.after.constraints"] },
-- ]
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class,
       json_get_str(additional, 'after', 'grantId') AS grant_id, json_get_str(additional, 'after', 'granteePrincipal') AS grantee,
       json_get_json(additional, 'after', 'operations') AS operations
FROM events
WHERE event_name = 'CreateGrant' AND error_code IS NULL AND invoked_by IS NULL
  AND (json_get_json(additional, 'after', 'operations') LIKE '%"CreateGrant"%'
    OR (json_get_json(additional, 'after', 'operations') LIKE '%"Decrypt"%' AND NOT json_contains(additional, 'after', 'constraints')))
