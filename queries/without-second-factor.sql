-- Changes that were made without a second factor.
SELECT event_time, event_name, principal_arn, key_arn, source_ip, user_agent
FROM events
WHERE read_only = false AND error_code IS NULL AND NOT coalesce(mfa, false) AND actor_class IN ('user', 'root')
ORDER BY event_time DESC
LIMIT 200
