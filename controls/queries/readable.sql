-- +++
-- id = "readable"
-- verdict = "exceptions: an event could not be read into columns and is therefore in no report. met: all could, and the exact bytes stand beside them"
-- population_of = "events of the period whose payload is in the pack"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL'''
-- +++
SELECT CASE WHEN count(parse_error) > 0 THEN 'exception' ELSE 'ok' END AS finding,
       CAST(count(*) AS VARCHAR) || ' events, of which ' || CAST(count(parse_error) AS VARCHAR) || ' cannot be read into columns' AS why,
       log, count(*) AS events, count(parse_error) AS unreadable, min(seq) AS first_seq, max(seq) AS last_seq
FROM events
WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL
GROUP BY log
ORDER BY 1, 2, 3, 4, 5, 6, 7
