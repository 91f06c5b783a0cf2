-- One access key seen from several addresses within an hour.
SELECT access_key_id, principal_arn, date_bin(INTERVAL '1 hour', event_time) AS hour, count(DISTINCT source_ip) AS addresses,
       count(*) AS calls
FROM events
WHERE access_key_id IS NOT NULL AND invoked_by IS NULL
GROUP BY access_key_id, principal_arn, hour
ORDER BY addresses DESC, calls DESC
LIMIT 50
