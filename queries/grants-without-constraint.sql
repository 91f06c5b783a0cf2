-- Grants that allow Decrypt whatever the encryption context.
SELECT grant_id, key_arn, grantee_principal, operations, created_by, created_at
FROM grants
WHERE current AND operations LIKE '%"Decrypt"%' AND coalesce(constraints, '{}') = '{}'
ORDER BY created_at
