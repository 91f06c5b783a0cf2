-- +++
-- id = "halts-and-gaps"
-- verdict = "exceptions: logging stood still, was degraded or lost something for longer than $minutes minutes: a run without a stop, a silence between heartbeats, a declared gap, a change of mode, replies that were not sent. met: nothing of the kind"
-- population_of = "heartbeats and starts of the period"
-- population = '''SELECT count(*) FROM records WHERE kind IN (3, 5) AND event_time >= $from AND event_time < $to'''
-- [params]
-- minutes = 0
-- silence_seconds = 60
-- +++
WITH pulse AS (
  SELECT log, seq, epoch, kind, event_time, leaf_time_us,
         lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before,
         lag(seq) OVER (PARTITION BY log ORDER BY seq) AS seq_before,
         lag(event_time) OVER (PARTITION BY log ORDER BY seq) AS time_before,
         lag(leaf_time_us) OVER (PARTITION BY log ORDER BY seq) AS us_before
  FROM records
  WHERE kind IN (3, 4, 5)
),
halts AS (
  SELECT log, seq, time_before AS since, event_time AS restored, leaf_time_us - us_before AS lasted_us,
         CASE WHEN kind = 3 THEN 'a run ended without a record of its stop' ELSE 'no heartbeat was recorded' END AS what
  FROM pulse
  WHERE event_time >= $from AND event_time < $to AND seq_before IS NOT NULL
    AND ((kind = 3 AND kind_before <> 4) OR (kind = 5 AND kind_before = 5 AND leaf_time_us - us_before > $silence_seconds * 1000000))
)
SELECT CASE WHEN lasted_us >= $minutes * 60000000 THEN 'exception' ELSE 'ok' END AS finding,
       what || '; logging went on after ' || CAST(lasted_us / 1000000 AS VARCHAR) || ' s' AS why,
       log, seq, since, restored
FROM halts
UNION ALL
SELECT 'exception',
       CASE kind WHEN 6 THEN 'replies were not sent because the log was too slow'
                 WHEN 8 THEN 'a gap in the log was declared'
                 ELSE 'the mode of logging was changed' END,
       log, seq, event_time, NULL
FROM log_events
WHERE kind IN (6, 8, 11) AND event_time >= $from AND event_time < $to
ORDER BY 1, 2, 3, 4, 5, 6
