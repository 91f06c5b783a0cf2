-- +++
-- id = "admin-without-mfa"
-- verdict = "exceptions: a change by an account's root, or by someone without a second factor who is not in $exempt. met: all changes were made with a second factor"
-- population_of = "changes by people and roles in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND read_only = false AND error_code IS NULL AND actor_class IN ('user', 'root', 'role') AND event_source IN ('kms.amazonaws.com', 'iam.amazonaws.com')'''
-- [params]
-- exempt = []
-- +++
SELECT CASE WHEN coalesce(principal_arn IN $exempt, false) THEN 'ok'
            WHEN actor_class = 'root' OR coalesce(mfa, false) = false THEN 'exception' ELSE 'ok' END AS finding,
       coalesce(principal_arn, 'a caller without a name') || ' made ' || CAST(count(*) AS VARCHAR) || ' changes (' || coalesce(event_name, 'unnamed') || ')'
         || CASE WHEN actor_class = 'root' THEN ' as root' WHEN coalesce(mfa, false) THEN ' with a second factor' ELSE ' without a second factor' END AS why,
       principal_arn, actor_class, event_name, coalesce(mfa, false) AS mfa, count(*) AS changes, min(seq) AS first_seq, max(seq) AS last_seq
FROM events
WHERE event_time >= $from AND event_time < $to AND read_only = false AND error_code IS NULL AND actor_class IN ('user', 'root', 'role') AND event_source IN ('kms.amazonaws.com', 'iam.amazonaws.com')
GROUP BY principal_arn, actor_class, event_name, coalesce(mfa, false)
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
