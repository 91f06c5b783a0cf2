-- What a principal could have read: every key and encryption context it decrypted, and the data keys it was given.
-- The list of what to encrypt anew after a credential was stolen.
SELECT principal_arn, key_arn, enc_context, event_name, count(*) AS calls, min(event_time) AS first, max(event_time) AS last
FROM events
WHERE event_name IN ('Decrypt', 'GenerateDataKey', 'ReEncrypt') AND error_code IS NULL
GROUP BY principal_arn, key_arn, enc_context, event_name
ORDER BY principal_arn, calls DESC
LIMIT 1000
