-- Which role's sessions opened the variables of which function, and what was refused.
SELECT e.principal_type, e.principal_arn, e.enc_context, e.error_code, e.decided_by
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 'function variables' AND e.event_name = 'Decrypt'
ORDER BY e.seq
