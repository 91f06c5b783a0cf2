-- +++
-- id = "tagged-decrypts"
-- verdict = "exceptions: someone who is not in $approved decrypted under such a key. cannot be shown: no key has the tag, or $approved is empty and the list is for a person to compare. met: all are approved"
-- population_of = "successful decryptions in the period under keys with the tag $tag = $value"
-- population = '''SELECT count(*) FROM events e JOIN keys k ON k.key_arn = e.key_arn WHERE e.event_time >= $from AND e.event_time < $to AND e.error_code IS NULL AND e.event_name = 'Decrypt' AND json_get_str(k.tags, $tag) = $value'''
-- [params]
-- approved = []
-- tag = "data"
-- value = "ephi"
-- +++
SELECT CASE WHEN coalesce(e.principal_arn IN $approved, false) THEN 'ok' WHEN $approved_given THEN 'exception' ELSE 'review' END AS finding,
       coalesce(e.principal_arn, 'a caller without a name') || ' decrypted ' || CAST(count(*) AS VARCHAR) || ' times under ' || e.key_arn AS why,
       e.key_arn, e.principal_arn, count(*) AS calls, min(e.event_time) AS first_time, max(e.event_time) AS last_time
FROM events e JOIN keys k ON k.key_arn = e.key_arn
WHERE e.event_time >= $from AND e.event_time < $to AND e.error_code IS NULL AND e.event_name = 'Decrypt' AND json_get_str(k.tags, $tag) = $value
GROUP BY e.key_arn, e.principal_arn
ORDER BY 1, 2, 3, 4, 5, 6, 7
