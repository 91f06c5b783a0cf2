-- +++
-- id = "capacity"
-- verdict = "exceptions: calls were refused because the log could not take their records. met: none was"
-- population_of = "heartbeats of the period"
-- population = '''SELECT count(*) FROM records WHERE kind = 5 AND event_time >= $from AND event_time < $to'''
-- +++
WITH refusals AS (
  SELECT log, seq, event_time, json_get_int(CAST(raw AS VARCHAR), 'unavailable') AS unavailable
  FROM records
  WHERE kind = 2 AND event_time >= $from AND event_time < $to
)
SELECT 'exception' AS finding,
       CAST(unavailable AS VARCHAR) || ' calls were refused because the log could not take their records' AS why,
       log, seq, event_time, unavailable
FROM refusals
WHERE unavailable > 0
ORDER BY 1, 2, 3, 4, 5, 6
