-- The events by which each alert was raised: seqs are in the alert, the events are in the log.
SELECT a.rule_id, a.severity, a.created, a.title, json_get_str(a.json, 'row', 'principal_arn') AS principal,
       json_get_str(a.json, 'row', 'key_arn') AS key_arn, json_length(a.json, 'evidence') AS records
FROM alerts a
ORDER BY a.position DESC
LIMIT 50
