-- +++
-- id = "detections"
-- verdict = "exceptions: an alert was raised later than $minutes minutes after the last event that it is about. met: all were raised in time"
-- population_of = "alerts of the period"
-- population = '''SELECT count(*) FROM alerts WHERE detected_at >= $from AND detected_at < $to'''
-- [params]
-- minutes = 15
-- +++
SELECT CASE WHEN detected_at_us - last_event_us > $minutes * 60000000 THEN 'exception' ELSE 'ok' END AS finding,
       'alert ' || rule_id || ' (' || severity || ') was raised ' || CAST((detected_at_us - last_event_us) / 1000000 AS VARCHAR) || ' s after its last event' AS why,
       alert_id, rule_id, severity, last_event_at, detected_at, matched
FROM alerts
WHERE detected_at >= $from AND detected_at < $to
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
