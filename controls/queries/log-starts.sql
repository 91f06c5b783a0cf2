-- +++
-- id = "log-starts"
-- verdict = "exceptions: a run of the log ended without a record of its stop. met: each start but a log's first follows a recorded stop"
-- population_of = "starts and stops of the log in the period"
-- population = '''SELECT count(*) FROM log_events WHERE kind IN (3, 4) AND event_time >= $from AND event_time < $to'''
-- +++
WITH steps AS (
  SELECT log, seq, epoch, kind, event_time, payload,
         lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before,
         lag(event_time) OVER (PARTITION BY log ORDER BY seq) AS time_before
  FROM log_events
  WHERE kind IN (3, 4)
)
SELECT CASE WHEN kind = 3 AND kind_before = 3 THEN 'exception' ELSE 'ok' END AS finding,
       CASE WHEN kind = 4 THEN 'the log was stopped'
            WHEN kind_before IS NULL THEN 'the log was started for the first time'
            WHEN kind_before = 3 THEN 'run ' || CAST(epoch AS VARCHAR) || ' began although the run before it has no record of a stop'
            ELSE 'the log was started after a recorded stop' END AS why,
       log, seq, epoch, event_time
FROM steps
WHERE event_time >= $from AND event_time < $to
ORDER BY 1, 2, 3, 4, 5, 6
