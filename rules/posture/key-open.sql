-- +++
-- id = "key-open"
-- version = 1
-- kind = "posture"
-- title = "A key is open to outsiders"
-- description = "The policy in force lets everyone in, or an account that is neither the key's own nor trusted (section site of params.toml). Judged by the evaluator that judges calls."
-- false_positives = ["accounts that are trusted and not on the list"]
-- blind_spots = ["grants to outsiders: see grant-to-external-account", "outsiders behind a condition that cannot hold for them are named all the same"]
-- schedule = "1h"
-- group_key = ["key_arn"]
-- dedup_period = "7d"
-- severity = "CASE WHEN public THEN 'critical' ELSE 'high' END"
-- attack = ["T1098.003"]
-- labels = { control = "KMS.5" }
--
-- [[test]]
-- name = "open to the world"
-- given = { fixture = "put-key-policy-public" }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "open to another account"
-- given = { fixture = "put-key-policy", set = { "additionalEventData.policy" = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:root"},"Action":"kms:Decrypt","Resource":"*"}]}' } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "everyone behind a fence stays quiet"
-- given = { fixture = "put-key-policy-fenced" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "closed again stays quiet"
-- given = [{ fixture = "put-key-policy-public" }, { fixture = "put-key-policy", at = "1h" }]
-- expect = { alerts = 0 }
-- +++
SELECT k.key_arn, k.account, k.region, coalesce(policy_is_public(p.policy), false) AS public,
       policy_untrusted_accounts(p.policy, k.account) AS accounts, p.event_id, p.principal_arn AS set_by
FROM keys k JOIN key_policies p ON p.key_arn = k.key_arn AND p.current
WHERE k.key_state NOT IN ('Deleted', 'PendingDeletion', 'PendingReplicaDeletion')
  AND (policy_is_public(p.policy) OR policy_untrusted_accounts(p.policy, k.account) <> '[]')
