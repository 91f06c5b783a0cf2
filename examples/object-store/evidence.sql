-- Every object has had a data key of the bucket's own key, and that key's policy, open to "*", is not open to the world.
SELECT e.enc_context AS object, e.user_name AS stored_by, k.description AS key, policy_is_public(p.policy) AS public
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
JOIN key_policies p ON p.key_arn = e.key_arn AND p.current
WHERE e.event_name = 'GenerateDataKey' AND e.error_code IS NULL AND e.invoked_by = 's3.amazonaws.com'
ORDER BY e.seq
