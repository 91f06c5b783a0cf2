-- +++
-- id = "log-readers"
-- verdict = "exceptions: someone besides the trail, the responder and those in $approved read the log. met: nobody else did"
-- population_of = "reads of the log through the service in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND event_name IN ('GetFrames', 'GetRecords', 'LookupEvents') AND error_code IS NULL'''
-- [params]
-- approved = []
-- +++
SELECT CASE WHEN actor_class IN ('trail', 'responder', 'service') OR coalesce(principal_arn IN $approved, false) THEN 'ok' ELSE 'exception' END AS finding,
       coalesce(principal_arn, 'a caller without a name') || ' read the log ' || CAST(count(*) AS VARCHAR) || ' times' AS why,
       log, principal_arn, event_name, count(*) AS reads, min(event_time) AS first_time, max(event_time) AS last_time
FROM events
WHERE event_time >= $from AND event_time < $to AND event_name IN ('GetFrames', 'GetRecords', 'LookupEvents') AND error_code IS NULL
GROUP BY log, principal_arn, actor_class, event_name
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
