-- +++
-- id = "cryptoperiod"
-- verdict = "exceptions: a key that can be used has had the same key material for more than $days days at the end of the period. met: none has"
-- population_of = "keys that can be used at the end of the period"
-- population = '''SELECT count(*) FROM keys WHERE key_state = 'Enabled''''
-- [params]
-- days = 365
-- +++
WITH material AS (
  SELECT key_arn, max(event_time_us) AS since_us
  FROM key_events
  WHERE event_name IN ('CreateKey', 'ImportKeyMaterial', 'RotateKey')
  GROUP BY key_arn
)
SELECT CASE WHEN m.since_us IS NULL OR $to_us - m.since_us > $days * 86400000000 THEN 'exception' ELSE 'ok' END AS finding,
       'key ' || k.key_arn || ' has had its key material for ' || coalesce(CAST(($to_us - m.since_us) / 86400000000 AS VARCHAR), 'an unknown number of') || ' days' AS why,
       k.key_arn, k.key_spec, k.origin, k.key_material_id, ($to_us - m.since_us) / 86400000000 AS days
FROM keys k LEFT JOIN material m ON m.key_arn = k.key_arn
WHERE k.key_state = 'Enabled'
ORDER BY 1, 2, 3, 4, 5, 6, 7
