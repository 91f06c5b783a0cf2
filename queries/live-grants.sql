-- Grants that are in force, oldest first, with what they allow.
SELECT grant_id, key_arn, grantee_principal, operations, constraints, created_by, created_at
FROM grants
WHERE current
ORDER BY created_at
LIMIT 1000
