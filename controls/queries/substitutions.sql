-- +++
-- id = "substitutions"
-- verdict = "exceptions: an alias that was in use was pointed to another key by the one who made that key or imported its material. met: no such substitution by one person"
-- population_of = "aliases pointed to a key, imports and replaced policies in the period"
-- population = '''SELECT count(*) FROM key_events WHERE event_time >= $from AND event_time < $to AND event_name IN ('CreateAlias', 'ImportKeyMaterial', 'PutKeyPolicy', 'UpdateAlias')'''
-- +++
WITH makers AS (
  SELECT DISTINCT key_arn, principal_arn FROM key_events WHERE event_name IN ('CreateKey', 'ImportKeyMaterial', 'ReplicateKey')
)
SELECT CASE WHEN c.event_name = 'UpdateAlias' AND m.principal_arn IS NOT NULL THEN 'exception' ELSE 'ok' END AS finding,
       coalesce(c.principal_arn, 'a caller without a name') || ': ' || c.event_name || ' on ' || coalesce(c.alias_arn || ', now ', '') || coalesce(c.key_arn, 'a key without a name')
         || CASE WHEN c.event_name = 'UpdateAlias' AND m.principal_arn IS NOT NULL THEN ', which the same principal made' ELSE '' END AS why,
       c.event_name, c.principal_arn, c.key_arn, c.alias_arn, c.event_time, c.log, c.seq, c.event_id
FROM key_events c LEFT JOIN makers m ON m.key_arn = c.key_arn AND m.principal_arn = c.principal_arn
WHERE c.event_time >= $from AND c.event_time < $to AND c.event_name IN ('CreateAlias', 'ImportKeyMaterial', 'PutKeyPolicy', 'UpdateAlias')
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
