-- Decryption by the hour: the first picture of a spike.
SELECT date_bin(INTERVAL '1 hour', event_time) AS hour, count(*) AS decrypts, count(DISTINCT principal_arn) AS principals,
       count(DISTINCT enc_context) AS contexts
FROM events
WHERE event_name = 'Decrypt' AND error_code IS NULL
GROUP BY hour
ORDER BY hour
