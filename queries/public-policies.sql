-- Keys whose policy lets anyone in, judged by the evaluator and not by searching for a star.
SELECT key_arn, event_name, principal_arn AS set_by, event_time AS set_at, policy
FROM key_policies
WHERE current AND policy_is_public(policy)
ORDER BY set_at DESC
