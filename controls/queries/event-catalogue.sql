-- +++
-- id = "event-catalogue"
-- verdict = "exceptions: an event type outside the catalogue of docs/event.md was recorded, or one without a name. met: all belong to it"
-- population_of = "events of the period whose payload is in the pack"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL'''
-- +++
SELECT CASE WHEN event_name IS NULL OR event_name = 'Unknown' OR event_source IS NULL
              OR event_source NOT IN ('iam.amazonaws.com', 'keytrail.internal', 'kms.amazonaws.com', 'sts.amazonaws.com', 'cloudtrail.amazonaws.com')
         THEN 'exception' ELSE 'ok' END AS finding,
       CAST(count(*) AS VARCHAR) || ' events ' || coalesce(event_name, 'without a name') || ' of ' || coalesce(event_source, 'no source') AS why,
       event_source, event_name, event_type, count(*) AS events, min(seq) AS first_seq
FROM events
WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL
GROUP BY event_source, event_name, event_type
ORDER BY 1, 2, 3, 4, 5, 6, 7
