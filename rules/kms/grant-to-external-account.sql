-- +++
-- id = "grant-to-external-account"
-- version = 2
-- kind = "event"
-- title = "A grant gives a stranger's account the use of a key"
-- description = "The grantee, or who may retire the grant, is of an account that is neither the key's own nor trusted by the site. Grants survive the rotation of credentials and do not show in policies."
-- false_positives = ["a partner who is not on the list yet: params.toml, [site] trusted_accounts"]
-- blind_spots = ["a grant handed on by a trusted account"]
-- runbook = "Ask who made it for the contract with the grantee's account. If there is none, revoke the grant by grant_id and list the grantee's calls: a rotation of credentials does not end them."
-- attack = ["T1098"]
-- compliance = ["NIST 800-53 AC-3", "NIST 800-53 AC-6", "PCI DSS 4.0.1 7.2.1"]
-- status = "stable"
-- confidence = "high"
-- group_key = ["principal_arn", "key_arn", "grantee"]
-- dedup_period = "1h"
-- severity = "high"
--
-- [[test]]
-- name = "a stranger"
-- given = { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a stranger who may retire it"
-- given = { fixture = "create-grant", set = { "requestParameters.retiringPrincipal" = "arn:aws:iam::999988887777:root" } }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "two strangers are two alerts, repeats of one are not"
-- given = [
--   { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" }, repeat = 3, spread = "10m" },
--   { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/eve" } },
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
-- given = { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "backup.amazonaws.com" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "create-grant", set = { errorCode = "AccessDenied", "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "the end of a stranger's grant stays quiet"
-- given = { fixture = "create-grant", set = { eventName = "RetireGrant", "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "as CloudTrail records it"
-- given = { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory" }, unset = ["additionalEventData"] }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "through a service counts as well"
-- given = { fixture = "create-grant", set = { "requestParameters.granteePrincipal" = "arn:aws:iam::999988887777:user/mallory", "userIdentity.invokedBy" = "rds.amazonaws.com" } }
-- expect = { alerts = 1, severity = "high" }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, json_get_str(additional, 'after', 'grantId') AS grant_id,
       json_get_str(request_parameters, 'granteePrincipal') AS grantee,
       json_get_str(request_parameters, 'retiringPrincipal') AS retiring_principal
FROM events
WHERE event_name = 'CreateGrant' AND error_code IS NULL
  AND ((arn_account(json_get_str(request_parameters, 'granteePrincipal')) <> key_account
      AND NOT is_trusted_account(arn_account(json_get_str(request_parameters, 'granteePrincipal'))))
    OR (arn_account(json_get_str(request_parameters, 'retiringPrincipal')) <> key_account
      AND NOT is_trusted_account(arn_account(json_get_str(request_parameters, 'retiringPrincipal')))))
