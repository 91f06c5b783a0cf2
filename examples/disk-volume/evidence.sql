-- For each volume: when it was made, how often its key was given out since, and to whom it was refused.
SELECT
  e.enc_context AS volume,
  min(e.event_time) FILTER (WHERE e.event_name = 'GenerateDataKeyWithoutPlaintext') AS made,
  count(*) FILTER (WHERE e.event_name = 'Decrypt' AND e.error_code IS NULL) AS key_given_out,
  string_agg(e.user_name || ' ' || e.error_code, ', ' ORDER BY e.seq) FILTER (WHERE e.error_code IS NOT NULL) AS refused
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 'disks' AND e.enc_context IS NOT NULL
GROUP BY e.enc_context
ORDER BY min(e.seq)
