-- +++
-- id = "key-policy-lockout"
-- version = 1
-- kind = "event"
-- title = "A key's policy shuts its owner out"
-- description = "Nobody of the owning account could change the policy again, or the check against that was switched off in the call. Whoever is named in the policy owns the key from now on."
-- false_positives = ["a break-glass exercise"]
-- blind_spots = ["a policy that leaves one administrator, who is the attacker"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1m"
-- severity = "CASE WHEN locked_out THEN 'critical' ELSE 'high' END"
-- attack = ["T1531"]
--
-- [[test]]
-- name = "nobody of the account is left"
-- given = { fixture = "put-key-policy", set = { "requestParameters.policy" = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"arn:aws:iam::999988887777:root\"},\"Action\":\"kms:*\",\"Resource\":\"*\"}]}", "additionalEventData.policy" = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"arn:aws:iam::999988887777:root\"},\"Action\":\"kms:*\",\"Resource\":\"*\"}]}" } }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "the check was switched off"
-- given = { fixture = "put-key-policy", set = { "requestParameters.bypassPolicyLockoutSafetyCheck" = true } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the default policy stays quiet"
-- given = { fixture = "put-key-policy" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "put-key-policy", set = { errorCode = "MalformedPolicyDocumentException", "requestParameters.bypassPolicyLockoutSafetyCheck" = true } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "the responder putting back the policy that was there before stays quiet"
-- given = { fixture = "put-key-policy", set = { eventName = "RestoreKeyPolicy", "additionalEventData.policy" = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"arn:aws:iam::999988887777:root\"},\"Action\":\"kms:*\",\"Resource\":\"*\"}]}" } }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class, event_name, coalesce(policy_locks_out(policy, key_account), false) AS locked_out
FROM events
WHERE event_name IN ('CreateKey', 'PutKeyPolicy', 'ReplicateKey') AND error_code IS NULL
  AND (coalesce(policy_locks_out(policy, key_account), false)
    OR coalesce(json_get_bool(request_parameters, 'bypassPolicyLockoutSafetyCheck'), false))
