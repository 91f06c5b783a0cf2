-- +++
-- id = "key-custodians"
-- verdict = "exceptions: someone who is not in $approved used or changed a key. cannot be shown: $approved is empty, so the list is for a person to compare. met: all are approved"
-- population_of = "uses and changes of keys by people and roles in the period"
-- population = '''
-- SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND key_arn IS NOT NULL AND actor_class IN ('user', 'root', 'role')
--     AND CASE WHEN $plaintext THEN event_name IN ('Decrypt', 'DeriveSharedSecret', 'GenerateDataKey', 'GenerateDataKeyPair', 'GetParametersForImport', 'ImportKeyMaterial') ELSE read_only = false OR event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac') END'''
-- [params]
-- approved = []
-- plaintext = false
-- +++
SELECT CASE WHEN coalesce(principal_arn IN $approved, false) THEN 'ok' WHEN $approved_given THEN 'exception' ELSE 'review' END AS finding,
       coalesce(principal_arn, 'a caller without a name') || CASE WHEN read_only THEN ' used ' ELSE ' changed ' END || key_arn || ' ' || CAST(count(*) AS VARCHAR) || ' times' AS why,
       key_arn, principal_arn, CASE WHEN read_only THEN 'use' ELSE 'administration' END AS class,
       count(*) AS calls, min(event_time) AS first_time, max(event_time) AS last_time
FROM events
WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND key_arn IS NOT NULL AND actor_class IN ('user', 'root', 'role')
    AND CASE WHEN $plaintext THEN event_name IN ('Decrypt', 'DeriveSharedSecret', 'GenerateDataKey', 'GenerateDataKeyPair', 'GetParametersForImport', 'ImportKeyMaterial') ELSE read_only = false OR event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac') END
GROUP BY key_arn, principal_arn, read_only
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
