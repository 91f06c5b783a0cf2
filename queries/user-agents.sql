-- Programs that call, by principal: an SDK that nobody uses here stands out.
SELECT principal_arn, split_part(user_agent, ' ', 1) AS program, count(*) AS calls, min(event_time) AS first, max(event_time) AS last
FROM events
WHERE user_agent IS NOT NULL
GROUP BY principal_arn, program
ORDER BY principal_arn, calls DESC
LIMIT 200
