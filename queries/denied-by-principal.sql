-- Who is refused, for what, and who decided. Repeated refusals are a missing permission or somebody trying out a credential.
SELECT principal_arn, event_name, key_arn, decided_by, count(*) AS refused, max(event_time) AS last
FROM events
WHERE error_code = 'AccessDenied'
GROUP BY principal_arn, event_name, key_arn, decided_by
ORDER BY refused DESC
LIMIT 100
