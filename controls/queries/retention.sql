-- +++
-- id = "retention"
-- verdict = "exceptions: the journal was pruned of records younger than $days days; the lake may still have them. met: each log has kept everything since its first record or for $days days. Single erasures are listed and are no exception"
-- population_of = "logs that were started before the period's end"
-- population = '''SELECT count(DISTINCT log) FROM log_events WHERE kind = 3 AND event_time < $to'''
-- [params]
-- days = 365
-- +++
WITH about AS (
  SELECT log, seq, kind, event_time, json_get_int(payload, 'keepSeconds') AS keep_seconds
  FROM log_events
  WHERE event_time < $to AND (kind IN (9, 10) OR (kind = 3 AND seq = 0))
)
SELECT CASE WHEN kind = 10 AND coalesce(keep_seconds, 0) < $days * 86400 THEN 'exception' ELSE 'ok' END AS finding,
       CASE kind
         WHEN 3 THEN 'the first record of the log'
         WHEN 9 THEN 'payloads were erased on request; their leaves are kept'
         ELSE 'records older than ' || coalesce(CAST(keep_seconds / 86400 AS VARCHAR), 'an unknown number of') || ' days were pruned from the journal' END AS why,
       log, seq, kind, event_time, keep_seconds
FROM about
ORDER BY 1, 2, 3, 4, 5, 6, 7
