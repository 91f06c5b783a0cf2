-- +++
-- id = "grant-to-external-account"
-- version = 1
-- kind = "event"
-- title = "A grant gives a stranger's account the use of a key"
-- description = "The grantee, or who may retire the grant, is of an account that is neither the key's own nor trusted by the site. Grants survive the rotation of credentials and do not show in policies."
-- false_positives = ["a partner who is not on the list yet: params.toml, [site] trusted_accounts"]
-- blind_spots = ["a grant handed on by a trusted account"]
-- group_key = ["principal_arn", "key_arn", "grantee"]
-- dedup_period = "1h"
-- severity = "high"
-- attack = ["T1098"]
--
-- [[test]]
-- name = "a stranger"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a stranger who may retire it"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.retiringPrincipal" = "arn:aws:iam::999988887777:root" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "two strangers are two alerts, repeats of one are not"
-- given = [
--   { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" }, repeat = 3, spread = "10m" },
--   { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "arn:aws:iam::999988887777:user/eve" } },
-- ]
-- expect = { alerts = 2 }
--
-- [[test]]
-- name = "somebody of the account stays quiet"
-- given = { fixture = "create-grant" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a service as the grantee stays quiet"
-- given = { fixture = "create-grant", set = { "additionalEventData.after.granteePrincipal" = "backup.amazonaws.com" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "create-grant", set = { errorCode = "AccessDenied", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "the end of a stranger's grant stays quiet"
-- given = { fixture = "create-grant", set = { eventName = "RetireGrant", "additionalEventData.after.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, json_get_str(additional, 'after', 'grantId') AS grant_id,
       json_get_str(additional, 'after', 'granteePrincipal') AS grantee,
       json_get_str(additional, 'after', 'retiringPrincipal') AS retiring_principal
FROM events
WHERE event_name = 'CreateGrant' AND error_code IS NULL
  AND ((arn_account(json_get_str(additional, 'after', 'granteePrincipal')) <> key_account
      AND NOT is_trusted_account(arn_account(json_get_str(additional, 'after', 'granteePrincipal'))))
    OR (arn_account(json_get_str(additional, 'after', 'retiringPrincipal')) <> key_account
      AND NOT is_trusted_account(arn_account(json_get_str(additional, 'after', 'retiringPrincipal')))))
