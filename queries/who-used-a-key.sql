-- Who has used a key, how often, and when last.
-- Change the key ARN at the end; without the line it is a list of all keys.
SELECT key_arn, principal_arn, count(*) AS calls, count(*) FILTER (WHERE error_code IS NOT NULL) AS refused,
       min(event_time) AS first_use, max(event_time) AS last_use
FROM events
WHERE event_name IN ('Decrypt', 'Encrypt', 'GenerateDataKey', 'ReEncrypt', 'Sign', 'GenerateMac')
GROUP BY key_arn, principal_arn
ORDER BY last_use DESC
LIMIT 100
