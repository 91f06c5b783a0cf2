-- Principals that used a key on the last day of the log and never before.
-- On a young log everything is new.
WITH used AS (
  SELECT principal_arn, key_arn, min(event_time) AS first_use, count(*) AS calls
  FROM events
  WHERE event_name IN ('Decrypt', 'GenerateDataKey', 'Encrypt', 'ReEncrypt') AND error_code IS NULL
  GROUP BY principal_arn, key_arn
)
SELECT principal_arn, key_arn, first_use, calls
FROM used
WHERE first_use > (SELECT max(event_time) FROM events) - INTERVAL '1 day'
ORDER BY first_use DESC
LIMIT 100
