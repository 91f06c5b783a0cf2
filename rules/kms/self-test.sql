-- +++
-- id = "self-test"
-- version = 1
-- kind = "event"
-- title = "The self-test called"
-- description = "Each hour a credential that may do nothing asks for the list of keys and is refused. That this becomes an alert, a quarantine and its undo shows that the whole path works; docs/canaries.md."
-- false_positives = ["a test that somebody runs by hand"]
-- blind_spots = ["whoever stole this credential looks like the test, and may do as little"]
-- group_key = ["principal_arn"]
-- dedup_period = "1s"
-- params = { user = "keytrail-self-test" }
-- severity = "low"
-- attack = ["T1078"]
-- labels = { purpose = "self-test" }
--
-- [[test]]
-- name = "its refused call fires"
-- given = { fixture = "describe-key", set = { eventName = "ListKeys", errorCode = "AccessDenied", "userIdentity.arn" = "arn:aws:iam::111122223333:user/keytrail-self-test" } }
-- expect = { alerts = 1, severity = "low" }
--
-- [[test]]
-- name = "other calls and other users stay quiet"
-- given = [
--   { fixture = "describe-key", set = { errorCode = "AccessDenied", "userIdentity.arn" = "arn:aws:iam::111122223333:user/keytrail-self-test" } },
--   { fixture = "describe-key", set = { eventName = "ListKeys", errorCode = "AccessDenied", "userIdentity.arn" = "arn:aws:iam::111122223333:user/not-keytrail-self-test" } },
--   { fixture = "describe-key", set = { eventName = "ListKeys", "userIdentity.arn" = "arn:aws:iam::111122223333:user/keytrail-self-test" } },
-- ]
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, account, region, event_id, event_time, source_ip, user_agent
FROM events
WHERE event_name = 'ListKeys' AND error_code = 'AccessDenied'
  AND principal_arn = concat('arn:aws:iam::', account, ':user/', $user)
