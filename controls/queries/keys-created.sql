-- +++
-- id = "keys-created"
-- verdict = "exceptions: a key was created with a specification that is not in $specs or from an origin that is not in $origins. met: all are approved"
-- population_of = "keys created in the period"
-- population = '''SELECT count(*) FROM key_events WHERE event_time >= $from AND event_time < $to AND event_name = 'CreateKey''''
-- [params]
-- specs = ["SYMMETRIC_DEFAULT", "RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_NIST_EDWARDS25519", "HMAC_256", "HMAC_384", "HMAC_512", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87"]
-- origins = ["AWS_KMS", "AWS_CLOUDHSM", "EXTERNAL"]
-- +++
SELECT CASE WHEN coalesce(key_spec IN $specs, false) AND coalesce(origin IN $origins, false) THEN 'ok' ELSE 'exception' END AS finding,
       'key ' || key_arn || ' was created as ' || coalesce(key_spec, 'unknown') || ' with origin ' || coalesce(origin, 'unknown') AS why,
       key_arn, key_spec, origin, key_usage, key_manager, key_material_id, principal_arn, event_time, log, seq
FROM key_events
WHERE event_time >= $from AND event_time < $to AND event_name = 'CreateKey'
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
