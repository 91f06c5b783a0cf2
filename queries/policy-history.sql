-- Each policy that was ever set, newest first, with the hash of the one before it.
SELECT key_arn, event_time, principal_arn, event_name, current, policy_sha256, previous_policy_sha256, policy
FROM key_policies
ORDER BY event_time DESC
LIMIT 200
