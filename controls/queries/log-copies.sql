-- +++
-- id = "log-copies"
-- verdict = "by each log's last start: exceptions: it could not reach the broker that keeps the copy. cannot be shown: it ships to no broker, so the copy has to be shown otherwise. met: it reached the broker and was compared with what is there"
-- population_of = "logs that were started before the period's end"
-- population = '''SELECT count(DISTINCT log) FROM log_events WHERE kind = 3 AND event_time < $to'''
-- +++
WITH last AS (
  SELECT log, seq, event_time, payload, row_number() OVER (PARTITION BY log ORDER BY seq DESC) AS place
  FROM log_events
  WHERE kind = 3 AND event_time < $to
)
SELECT CASE json_get_bool(payload, 'kafka', 'reached') WHEN true THEN 'ok' WHEN false THEN 'exception' ELSE 'review' END AS finding,
       CASE json_get_bool(payload, 'kafka', 'reached')
         WHEN true THEN 'records are shipped to a broker, which was reached and compared with'
         WHEN false THEN 'the broker that keeps the copy was not reached when the log was started'
         ELSE 'this log ships to no broker: show how it is copied' END AS why,
       log, seq, event_time, json_get_int(payload, 'kafka', 'comparedSize') AS compared_size
FROM last
WHERE place = 1
ORDER BY 1, 2, 3, 4, 5, 6
