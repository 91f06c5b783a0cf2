-- Calls that services made for somebody: the client behind them is not in the record.
SELECT invoked_by, principal_arn, event_name, count(*) AS calls
FROM events
WHERE invoked_by IS NOT NULL OR actor_class = 'service'
GROUP BY invoked_by, principal_arn, event_name
ORDER BY calls DESC
LIMIT 100
