-- What fails and is no refusal: wrong ciphertexts, keys in the wrong state, throttling.
SELECT error_code, event_name, count(*) AS calls, count(DISTINCT principal_arn) AS principals, max(event_time) AS last
FROM events
WHERE error_code IS NOT NULL AND error_code <> 'AccessDenied'
GROUP BY error_code, event_name
ORDER BY calls DESC
