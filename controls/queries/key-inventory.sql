-- +++
-- id = "key-inventory"
-- verdict = "exceptions: a key whose origin is not in $origins, or one that nothing is known of when it was made. met: all keys were established in an approved way"
-- population_of = "keys at the end of the period that are not deleted"
-- population = '''SELECT count(*) FROM keys WHERE key_state <> 'Deleted''''
-- [params]
-- origins = ["AWS_KMS", "AWS_CLOUDHSM"]
-- +++
SELECT CASE WHEN NOT coalesce(origin IN $origins, false) OR created_at IS NULL THEN 'exception' ELSE 'ok' END AS finding,
       'key ' || key_arn || ' (' || coalesce(key_spec, 'unknown') || ', ' || coalesce(origin, 'unknown') || ') is ' || coalesce(key_state, 'in an unknown state') AS why,
       key_arn, key_state, key_spec, key_usage, origin, key_manager, created_at, key_material_id, policy_sha256, log, last_seq
FROM keys
WHERE key_state <> 'Deleted'
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
