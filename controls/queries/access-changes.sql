-- +++
-- id = "access-changes"
-- verdict = "exceptions: a grant to oneself, or a key policy that lets anyone in. met: no change was of that kind"
-- population_of = "changes of key policies and grants in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND event_name IN ('CreateGrant', 'PutKeyPolicy', 'RestoreKeyPolicy', 'RetireGrant', 'RevokeGrant') AND error_code IS NULL AND repeat_of IS NULL'''
-- +++
WITH changes AS (
  SELECT log, seq, event_name, principal_arn, key_arn, event_time,
         json_get_str(request_parameters, 'granteePrincipal') AS grantee,
         coalesce(policy_is_public(policy), false) AS public
  FROM events
  WHERE event_time >= $from AND event_time < $to AND event_name IN ('CreateGrant', 'PutKeyPolicy', 'RestoreKeyPolicy', 'RetireGrant', 'RevokeGrant') AND error_code IS NULL AND repeat_of IS NULL
)
SELECT CASE WHEN public OR coalesce(grantee = principal_arn, false) THEN 'exception' ELSE 'ok' END AS finding,
       coalesce(principal_arn, 'a caller without a name')
         || CASE WHEN public THEN ' set a policy that lets anyone in on '
                 WHEN coalesce(grantee = principal_arn, false) THEN ' gave themselves a grant on '
                 ELSE ': ' || event_name || ' on ' END
         || coalesce(key_arn, 'a key without a name') AS why,
       event_name, principal_arn, key_arn, grantee, count(*) AS changes, min(event_time) AS first_time, max(event_time) AS last_time,
       min(seq) AS first_seq, max(seq) AS last_seq
FROM changes
GROUP BY event_name, principal_arn, key_arn, grantee, public
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
