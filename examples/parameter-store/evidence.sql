-- Of each parameter: who wrote it, who read it, who was refused.
SELECT
  e.enc_context AS parameter,
  string_agg(DISTINCT e.user_name, ' ') FILTER (WHERE e.event_name = 'GenerateDataKey' AND e.error_code IS NULL) AS writers,
  string_agg(DISTINCT e.user_name, ' ') FILTER (WHERE e.event_name = 'Decrypt' AND e.error_code IS NULL) AS readers,
  string_agg(DISTINCT e.user_name, ' ') FILTER (WHERE e.error_code = 'AccessDenied') AS refused
FROM events e
JOIN keys k ON k.key_arn = e.key_arn
WHERE k.description = 'parameters' AND e.invoked_by = 'ssm.amazonaws.com'
GROUP BY e.enc_context
ORDER BY e.enc_context
