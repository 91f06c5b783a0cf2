-- +++
-- id = "algorithms"
-- verdict = "exceptions: a key was used with an algorithm that is not in $algorithms. met: all are"
-- population_of = "successful uses of keys in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')'''
-- [params]
-- algorithms = ["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512", "RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512", "ECDSA_SHA_256", "ECDSA_SHA_384", "ECDSA_SHA_512", "ED25519_SHA_512", "ED25519_PH_SHA_512", "ML_DSA_SHAKE_256", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512", "ECDH"]
-- +++
WITH uses AS (
  SELECT seq, event_name, coalesce(json_get_str(request_parameters, 'encryptionAlgorithm'), json_get_str(request_parameters, 'destinationEncryptionAlgorithm'),
         json_get_str(request_parameters, 'signingAlgorithm'), json_get_str(request_parameters, 'macAlgorithm'),
         json_get_str(request_parameters, 'keyAgreementAlgorithm')) AS algorithm
  FROM events
  WHERE event_time >= $from AND event_time < $to AND error_code IS NULL AND event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
)
SELECT CASE WHEN algorithm IS NULL OR algorithm IN $algorithms THEN 'ok' ELSE 'exception' END AS finding,
       CAST(count(*) AS VARCHAR) || ' calls of ' || event_name || ' with ' || coalesce(algorithm, 'the key''s own algorithm') AS why,
       event_name, algorithm, count(*) AS calls, min(seq) AS first_seq, max(seq) AS last_seq
FROM uses
GROUP BY event_name, algorithm
ORDER BY 1, 2, 3, 4, 5, 6, 7
