-- +++
-- id = "log-integrity"
-- verdict = "exceptions: record numbers are missing in the pack, a gap was declared, a backup was restored without comparing it with a checkpoint, or an alert about the log's integrity was raised. met: none of these. That no byte was changed is shown by the verifiers, not by SQL"
-- population_of = "records of the period"
-- population = '''SELECT count(*) FROM records WHERE event_time >= $from AND event_time < $to'''
-- +++
SELECT CASE WHEN max(seq) - min(seq) + 1 <> count(*) THEN 'exception' ELSE 'ok' END AS finding,
       CASE WHEN max(seq) - min(seq) + 1 <> count(*)
         THEN CAST(max(seq) - min(seq) + 1 - count(*) AS VARCHAR) || ' record numbers are missing in the pack'
         ELSE 'the records of the pack are numbered without a gap' END AS why,
       log, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS records
FROM records
GROUP BY log
UNION ALL
SELECT 'exception', 'a gap in the log was declared', log, seq AS first_seq, seq AS last_seq, 1 AS records
FROM log_events
WHERE kind = 8 AND event_time >= $from AND event_time < $to
UNION ALL
SELECT 'exception', 'a backup was restored and compared with no checkpoint: what happened after it was taken may be missing', log, seq AS first_seq, seq AS last_seq, 1 AS records
FROM log_events
WHERE kind = 3 AND event_time >= $from AND event_time < $to AND json_get_int(payload, 'restored', 'setSize') IS NOT NULL AND json_get_int(payload, 'restored', 'comparedSize') IS NULL
UNION ALL
SELECT 'exception', 'alert ' || rule_id || ': ' || title, log, NULL AS first_seq, NULL AS last_seq, matched AS records
FROM alerts
WHERE rule_kind = 'meta' AND rule_id = 'audit-chain-gap' AND detected_at >= $from AND detected_at < $to
ORDER BY 1, 2, 3, 4, 5, 6
