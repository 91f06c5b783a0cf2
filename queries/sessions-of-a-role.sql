-- Sessions of roles, who opened them, and what they did with keys.
SELECT split_part(split_part(principal_arn, ':', 6), '/', 2) AS role, split_part(principal_arn, '/', 3) AS session, count(*) AS calls,
       count(DISTINCT key_arn) AS keys, min(event_time) AS first, max(event_time) AS last
FROM events
WHERE principal_type = 'AssumedRole'
GROUP BY role, session
ORDER BY last DESC
LIMIT 100
