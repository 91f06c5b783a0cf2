-- +++
-- id = "log-fields"
-- verdict = "exceptions: an event lacks who, what, when, where from, or which key. met: none does"
-- population_of = "events of the period whose payload is in the pack"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL'''
-- +++
WITH looked_at AS (
  SELECT log, seq, event_name, principal_arn,
         CASE
           WHEN parse_error IS NOT NULL THEN 'a readable form'
           WHEN event_name IS NULL THEN 'the operation'
           WHEN event_id IS NULL THEN 'an id of its own'
           WHEN principal_type IS NULL AND actor_class <> 'service' THEN 'who called'
           WHEN source_ip IS NULL THEN 'where the call came from'
           WHEN error_code IS NULL AND key_arn IS NULL AND event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac') THEN 'the key that was used'
         END AS lacks
  FROM events
  WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL
)
SELECT 'exception' AS finding,
       CAST(count(*) AS VARCHAR) || ' events of ' || coalesce(event_name, 'an unnamed operation') || ' lack ' || lacks AS why,
       log, event_name, lacks, count(*) AS events, min(seq) AS first_seq, max(seq) AS last_seq
FROM looked_at
WHERE lacks IS NOT NULL
GROUP BY log, event_name, lacks
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
