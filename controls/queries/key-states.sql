-- +++
-- id = "key-states"
-- verdict = "exceptions: a key was used while it was not active (disabled, waiting for deletion, destroyed, without material). met: no use outside the active state; the transitions are listed with their times"
-- population_of = "transitions of key states and successful uses of keys in the period"
-- population = '''SELECT (SELECT count(*) FROM key_events WHERE event_time >= $from AND event_time < $to AND key_state_after IS NOT NULL) + (SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac'))'''
-- +++
WITH states AS (
  SELECT key_arn, log, seq, event_time, event_name, principal_arn, key_state_before, key_state_after AS state,
         lead(seq) OVER (PARTITION BY key_arn, log ORDER BY seq) AS until_seq
  FROM key_events
  WHERE key_state_after IS NOT NULL
),
uses AS (
  SELECT key_arn, log, seq, event_time, principal_arn FROM events
  WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
)
SELECT 'exception' AS finding,
       'key ' || s.key_arn || ' was used ' || CAST(count(*) AS VARCHAR) || ' times while it was ' || s.state AS why,
       s.key_arn, s.state, s.log, min(u.seq) AS first_seq, max(u.seq) AS last_seq, min(u.event_time) AS first_time
FROM states s JOIN uses u ON u.key_arn = s.key_arn AND u.log = s.log
WHERE s.state <> 'Enabled' AND u.seq > s.seq AND (s.until_seq IS NULL OR u.seq < s.until_seq)
GROUP BY s.key_arn, s.state, s.log
UNION ALL
SELECT 'ok', 'key ' || key_arn || ' went from ' || coalesce(key_state_before, 'nothing') || ' to ' || state || ' (' || event_name || ')',
       key_arn, state, log, seq, until_seq, event_time
FROM states
WHERE event_time >= $from AND event_time < $to AND coalesce(key_state_before, '') <> state
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
