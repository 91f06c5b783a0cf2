-- +++
-- id = "imports"
-- verdict = "exceptions: the one who imported key material also fetched the parameters to wrap it with: one person did both halves. met: two did, each time"
-- population_of = "imports of key material in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND event_name = 'ImportKeyMaterial' AND error_code IS NULL'''
-- +++
WITH fetched AS (
  SELECT DISTINCT key_arn, principal_arn FROM events
  WHERE event_time < $to AND event_name = 'GetParametersForImport' AND error_code IS NULL
)
SELECT CASE WHEN f.principal_arn IS NOT NULL THEN 'exception' ELSE 'ok' END AS finding,
       coalesce(i.principal_arn, 'a caller without a name') || ' imported key material into ' || coalesce(i.key_arn, 'a key without a name')
         || CASE WHEN f.principal_arn IS NOT NULL THEN ' with parameters that the same principal fetched' ELSE '' END AS why,
       i.key_arn, i.principal_arn, i.event_time, i.log, i.seq, i.event_id
FROM events i LEFT JOIN fetched f ON f.key_arn = i.key_arn AND f.principal_arn = i.principal_arn
WHERE i.event_time >= $from AND i.event_time < $to AND i.event_name = 'ImportKeyMaterial' AND i.error_code IS NULL
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
