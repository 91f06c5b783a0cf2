-- +++
-- id = "retention"
-- verdict = "exceptions: payloads younger than $days days at the time were pruned. met: each log has kept everything since its first record or for $days days. Single erasures are listed and are no exception"
-- population_of = "logs that were started before the period's end"
-- population = '''SELECT count(DISTINCT log) FROM log_events WHERE kind = 3 AND event_time < $to'''
-- [params]
-- days = 365
-- +++
SELECT CASE
         WHEN kind <> 10 THEN 'ok'
         WHEN json_get_int(payload, 'throughTimeMicros') <= event_time_us - $days * 86400000000 THEN 'ok'
         ELSE 'exception'
       END AS finding,
       CASE kind
         WHEN 3 THEN 'the log''s first record'
         WHEN 9 THEN 'payloads were erased on request; their leaves are kept'
         ELSE CASE WHEN json_get_int(payload, 'throughTimeMicros') <= event_time_us - $days * 86400000000
           THEN 'payloads older than ' || CAST($days AS VARCHAR) || ' days were pruned'
           ELSE 'payloads were pruned that are not known to be older than ' || CAST($days AS VARCHAR) || ' days' END
       END AS why,
       log, seq, kind, event_time
FROM log_events
WHERE event_time < $to AND (kind IN (9, 10) OR (kind = 3 AND seq = 0))
ORDER BY 1, 2, 3, 4, 5, 6
