-- Everything that changed about keys, in order, with who did it and from where.
SELECT event_time, event_name, principal_arn, source_ip, key_arn, key_state_before, key_state_after, error_code, seq
FROM events
WHERE read_only = false AND key_arn IS NOT NULL
ORDER BY seq
LIMIT 1000
