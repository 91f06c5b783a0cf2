-- Who opened or tried to open whose card number, how often, and what decided it.
SELECT e.user_name, e.event_name, e.enc_context, e.error_code, e.decided_by, count(*) AS calls
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 'card data' AND e.event_name IN ('Encrypt', 'Decrypt')
GROUP BY e.user_name, e.event_name, e.enc_context, e.error_code, e.decided_by
ORDER BY min(e.seq)
