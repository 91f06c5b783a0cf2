-- +++
-- id = "grant-to-self"
-- version = 1
-- kind = "event"
-- title = "Somebody granted themselves the use of a key"
-- description = "Who may create grants but not decrypt can let themselves in this way, and the grant outlives a change of the policies. The grantee is the caller, or the role of the caller's session."
-- false_positives = ["an administrator who tries out a grant"]
-- blind_spots = ["a grant to a second identity of the same person"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1h"
-- severity = "high"
-- attack = ["T1098"]
--
-- [[test]]
-- name = "a user names itself"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:user/administrator" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a session names its role"
-- given = { fixture = "create-grant", set = { "userIdentity.type" = "AssumedRole", "userIdentity.arn" = "arn:aws:sts::111122223333:assumed-role/pipeline/build-7", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:role/pipeline" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "another's role of the same name stays quiet"
-- given = { fixture = "create-grant", set = { "userIdentity.type" = "AssumedRole", "userIdentity.arn" = "arn:aws:sts::111122223333:assumed-role/pipeline/build-7", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::444455556666:role/pipeline" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a role that is called like the user stays quiet"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:role/administrator" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a grant to somebody else stays quiet"
-- given = { fixture = "create-grant" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service that grants for its user stays quiet"
-- given = { fixture = "create-grant", set = { "userIdentity.invokedBy" = "ec2.amazonaws.com", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:user/administrator" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused attempt stays quiet"
-- given = { fixture = "create-grant", set = { errorCode = "AccessDenied", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:user/administrator" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "giving a grant back stays quiet"
-- given = { fixture = "create-grant", set = { eventName = "RetireGrant", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::111122223333:user/administrator" } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class,
       json_get_str(additional, 'after', 'grantId') AS grant_id, json_get_str(additional, 'after', 'granteePrincipal') AS grantee
FROM events
WHERE event_name = 'CreateGrant' AND error_code IS NULL AND invoked_by IS NULL
  AND (json_get_str(additional, 'after', 'granteePrincipal') = principal_arn
    OR (principal_arn LIKE 'arn:aws:sts::%:assumed-role/%' AND json_get_str(additional, 'after', 'granteePrincipal')
        = concat('arn:aws:iam::', principal_account, ':role/', split_part(principal_arn, '/', 2))))
