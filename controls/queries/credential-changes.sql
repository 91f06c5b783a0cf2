-- +++
-- id = "credential-changes"
-- verdict = "exceptions: somebody changed their own rights or gave themselves credentials. met: all changes were made by someone else"
-- population_of = "changes of users, credentials and their rights in the period"
-- population = '''SELECT count(*) FROM events WHERE event_time >= $from AND event_time < $to AND event_source = 'iam.amazonaws.com' AND read_only = false AND error_code IS NULL'''
-- +++
WITH changes AS (
  SELECT log, seq, event_time, event_id, event_name, principal_arn, user_name,
         json_get_str(request_parameters, 'userName') AS target
  FROM events
  WHERE event_time >= $from AND event_time < $to AND event_source = 'iam.amazonaws.com' AND read_only = false AND error_code IS NULL
)
SELECT CASE WHEN target = user_name AND event_name IN ('AddUserToGroup', 'AttachUserPolicy', 'CreateAccessKey', 'DeactivateMFADevice', 'DeleteUserPermissionsBoundary', 'DeleteUserPolicy', 'DetachUserPolicy', 'PutUserPermissionsBoundary', 'PutUserPolicy')
         THEN 'exception' ELSE 'ok' END AS finding,
       coalesce(principal_arn, 'a caller without a name') || ': ' || coalesce(event_name, 'unnamed') || CASE WHEN target = user_name THEN ' on their own user' ELSE '' END AS why,
       log, seq, event_time, event_name, principal_arn, event_id
FROM changes
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
