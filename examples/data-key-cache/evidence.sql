-- What a DisableKey could not recall: the data keys given out in the five minutes before it, and to whom. Each may have
-- been used for up to as long, and as often, as the program keeps one. After it, nothing was given out.
SELECT
  d.user_name AS disabled_by,
  e.user_name AS held_by,
  count(*) FILTER (WHERE e.seq < d.seq AND e.event_time >= d.event_time - INTERVAL '5 minutes' AND e.error_code IS NULL)
    AS keys_in_the_open,
  count(*) FILTER (WHERE e.seq > d.seq AND e.error_code IS NULL) AS given_out_after,
  count(*) FILTER (WHERE e.seq > d.seq AND e.error_code = 'DisabledException') AS refused_after
FROM events d
JOIN keys k ON k.key_arn = d.key_arn
JOIN events e ON e.key_arn = d.key_arn AND e.event_name IN ('GenerateDataKey', 'Decrypt')
WHERE k.description = 'messages' AND d.event_name = 'DisableKey' AND d.error_code IS NULL
  AND e.error_code IS DISTINCT FROM 'AccessDenied'
GROUP BY d.user_name, e.user_name
