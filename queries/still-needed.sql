-- Keys that are disabled or about to be deleted, and who asked for them since.
-- Before a key goes for good, this must be empty.
SELECT k.key_arn, k.key_state, e.principal_arn, count(*) AS failed_calls, max(e.event_time) AS last
FROM keys k
JOIN events e ON e.key_arn = k.key_arn
WHERE k.key_state <> 'Enabled' AND e.error_code IN ('DisabledException', 'KMSInvalidStateException')
GROUP BY k.key_arn, k.key_state, e.principal_arn
ORDER BY failed_calls DESC
