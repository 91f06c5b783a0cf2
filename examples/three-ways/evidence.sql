-- The same call by three users: `decided_by` tells which of the three ways let each of them in.
SELECT e.user_name, split_part(e.decided_by, '/', 1) AS way, e.decided_by, e.error_code, count(*) AS calls
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 'three ways' AND e.event_name = 'Decrypt'
GROUP BY e.user_name, e.decided_by, e.error_code
ORDER BY min(e.seq)
