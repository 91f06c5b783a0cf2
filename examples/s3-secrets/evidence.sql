-- Each use of the key: for whom, for which object, through which service; a call without `invoked_by` came directly.
SELECT e.user_name, e.invoked_by, e.event_name, e.enc_context, e.error_code, e.decided_by
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 's3 secrets' AND e.event_name IN ('GenerateDataKey', 'Decrypt')
ORDER BY e.seq
