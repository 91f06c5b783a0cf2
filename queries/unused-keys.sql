-- Keys that nobody has used for ninety days, or ever.
WITH last_use AS (
  SELECT key_arn, max(event_time) AS used
  FROM events
  WHERE event_name IN ('Decrypt', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyWithoutPlaintext', 'ReEncrypt', 'Sign', 'Verify', 'GenerateMac')
    AND error_code IS NULL
  GROUP BY key_arn
)
SELECT k.key_arn, k.description, k.created_at, u.used AS last_used
FROM keys k
LEFT JOIN last_use u ON u.key_arn = k.key_arn
WHERE k.key_manager = 'CUSTOMER'
  AND (u.used IS NULL OR u.used < (SELECT max(event_time) FROM events) - INTERVAL '90 days')
ORDER BY u.used NULLS FIRST
