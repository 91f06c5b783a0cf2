-- +++
-- id = "attributed"
-- verdict = "exceptions: a call succeeded for a caller that did not prove who it is. met: each is bound to an authenticated principal"
-- population_of = "successful calls of the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL AND error_code IS NULL AND actor_class <> 'service''''
-- +++
SELECT CASE WHEN actor_class = 'anonymous' OR principal_arn IS NULL OR principal_type = 'Unknown' THEN 'exception' ELSE 'ok' END AS finding,
       CAST(count(*) AS VARCHAR) || ' successful calls by ' || coalesce(principal_arn, 'nobody in particular') AS why,
       principal_arn, principal_type, actor_class, count(*) AS calls, count(DISTINCT access_key_id) AS access_keys, min(seq) AS first_seq, max(seq) AS last_seq
FROM events
WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL AND error_code IS NULL AND actor_class <> 'service'
GROUP BY principal_arn, principal_type, actor_class
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
