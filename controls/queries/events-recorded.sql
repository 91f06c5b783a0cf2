-- +++
-- id = "events-recorded"
-- verdict = "exceptions: an event of class $class was recorded without who, where from or an id. met: such events are recorded, each complete"
-- population_of = "events of class $class in the period"
-- population = '''
-- SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL AND CASE
--            WHEN $class = 'any' THEN true
--            WHEN $class = 'use' THEN event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
--            WHEN $class = 'administration' THEN read_only = false AND actor_class IN ('user', 'root', 'role')
--            WHEN $class = 'log-access' THEN event_name IN ('ExportEvidence', 'GetCheckpoint', 'GetConsistencyProof', 'GetFrames', 'GetInclusionProof', 'GetReceipt', 'GetRecords', 'LookupEvents', 'SignCheckpoint')
--            WHEN $class = 'refused' THEN error_code IN ('AccessDenied', 'AccessDeniedException', 'ExpiredTokenException', 'IncompleteSignature', 'InvalidClientTokenId', 'InvalidIdentityToken', 'InvalidSignatureException', 'MissingAuthenticationTokenException', 'NotAuthorizedException', 'SignatureDoesNotMatch', 'UnrecognizedClientException') OR principal_type = 'Unknown'
--            WHEN $class = 'credentials' THEN read_only = false AND (event_source = 'iam.amazonaws.com' OR event_name IN ('LoadIdentities', 'LiftQuarantine', 'PutQuarantine'))
--            WHEN $class = 'objects' THEN error_code IS NULL AND event_name IN ('CreateAlias', 'CreateCustomKeyStore', 'CreateGrant', 'CreateKey', 'DeleteAlias', 'DeleteCustomKeyStore', 'DeleteImportedKeyMaterial', 'DeleteKey', 'ImportKeyMaterial', 'ReplicateKey', 'RetireGrant', 'RevokeGrant', 'ScheduleKeyDeletion')
--            ELSE false
--          END'''
-- [params]
-- class = "any"
-- +++
WITH of_class AS (
  SELECT log, seq, event_name, error_code,
         (principal_type IS NULL AND actor_class <> 'service') OR source_ip IS NULL OR event_id IS NULL AS incomplete
  FROM events
  WHERE event_time >= $from AND event_time < $to AND raw IS NOT NULL AND CASE
           WHEN $class = 'any' THEN true
           WHEN $class = 'use' THEN event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
           WHEN $class = 'administration' THEN read_only = false AND actor_class IN ('user', 'root', 'role')
           WHEN $class = 'log-access' THEN event_name IN ('ExportEvidence', 'GetCheckpoint', 'GetConsistencyProof', 'GetFrames', 'GetInclusionProof', 'GetReceipt', 'GetRecords', 'LookupEvents', 'SignCheckpoint')
           WHEN $class = 'refused' THEN error_code IN ('AccessDenied', 'AccessDeniedException', 'ExpiredTokenException', 'IncompleteSignature', 'InvalidClientTokenId', 'InvalidIdentityToken', 'InvalidSignatureException', 'MissingAuthenticationTokenException', 'NotAuthorizedException', 'SignatureDoesNotMatch', 'UnrecognizedClientException') OR principal_type = 'Unknown'
           WHEN $class = 'credentials' THEN read_only = false AND (event_source = 'iam.amazonaws.com' OR event_name IN ('LoadIdentities', 'LiftQuarantine', 'PutQuarantine'))
           WHEN $class = 'objects' THEN error_code IS NULL AND event_name IN ('CreateAlias', 'CreateCustomKeyStore', 'CreateGrant', 'CreateKey', 'DeleteAlias', 'DeleteCustomKeyStore', 'DeleteImportedKeyMaterial', 'DeleteKey', 'ImportKeyMaterial', 'ReplicateKey', 'RetireGrant', 'RevokeGrant', 'ScheduleKeyDeletion')
           ELSE false
         END
)
SELECT CASE WHEN sum(CASE WHEN incomplete THEN 1 ELSE 0 END) > 0 THEN 'exception' ELSE 'ok' END AS finding,
       CASE WHEN sum(CASE WHEN incomplete THEN 1 ELSE 0 END) > 0
         THEN CAST(sum(CASE WHEN incomplete THEN 1 ELSE 0 END) AS VARCHAR) || ' events of ' || coalesce(event_name, 'an unnamed operation') || ' were recorded without who, where from or an id'
         ELSE 'all events of ' || coalesce(event_name, 'an unnamed operation') || ' are complete' END AS why,
       log, event_name, count(*) AS events, count(error_code) AS refused,
       sum(CASE WHEN incomplete THEN 1 ELSE 0 END) AS incomplete, min(seq) AS first_seq, max(seq) AS last_seq
FROM of_class
GROUP BY log, event_name
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
