-- +++
-- id = "clock"
-- verdict = "exceptions: a heartbeat shows the wall clock moved by more than $ms milliseconds against the monotonic clock since the start. met: none does. This shows that the clock was not set; that it agrees with the world's is for the host's time service to show"
-- population_of = "heartbeats of the period"
-- population = '''SELECT count(*) FROM records WHERE kind = 5 AND event_time >= $from AND event_time < $to'''
-- [params]
-- ms = 1000
-- +++
WITH beats AS (
  SELECT log, seq, epoch, event_time, json_get_int(CAST(raw AS VARCHAR), 'clockOffsetMicros') AS offset_us
  FROM records
  WHERE kind = 5 AND event_time >= $from AND event_time < $to
)
SELECT CASE WHEN max(abs(offset_us)) > $ms * 1000 OR count(offset_us) < count(*) THEN 'exception' ELSE 'ok' END AS finding,
       'the clock moved by at most ' || coalesce(CAST(max(abs(offset_us)) AS VARCHAR), 'an unknown number of') || ' microseconds in run ' || CAST(epoch AS VARCHAR) AS why,
       log, epoch, count(*) AS heartbeats, max(abs(offset_us)) AS offset_us_max,
       sum(CASE WHEN abs(offset_us) > $ms * 1000 THEN 1 ELSE 0 END) AS beyond, min(event_time) AS first_time, max(event_time) AS last_time
FROM beats
GROUP BY log, epoch
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
