-- +++
-- id = "responder-down"
-- version = 1
-- kind = "posture"
-- title = "The responder does not report any more"
-- description = "A responder at work tells the log so each five minutes. For a quarter of an hour it has not: its process, its credential or its way to the key service is gone, and nothing is contained. A responder that comes back tells of it; until then the alert stands in table alerts and on the topic of alerts."
-- false_positives = ["a responder that was taken away on purpose: it is missed for a day"]
-- blind_spots = ["a responder that never ran", "a node that was started a quarter of an hour ago or less", "a trail that does not run either"]
-- schedule = "5m"
-- group_key = ["principal_arn"]
-- dedup_period = "1d"
-- severity = "high"
-- attack = ["T1562"]
--
-- [[test]]
-- name = "silent for twenty minutes"
-- given = { fixture = "report-responder" }
-- at = "2026-01-05T12:20:00Z"
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a heartbeat each five minutes"
-- given = { fixture = "report-responder", repeat = 5, spread = "20m" }
-- at = "2026-01-05T12:25:00Z"
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "fifteen minutes are not too long"
-- given = { fixture = "report-responder" }
-- at = "2026-01-05T12:15:30Z"
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "what somebody else says is no report"
-- given = [{ fixture = "report-responder" }, { fixture = "report-responder", set = { "userIdentity.arn" = "arn:aws:iam::111122223333:user/mallory", errorCode = "AccessDenied" }, at = "19m" }]
-- at = "2026-01-05T12:20:00Z"
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "missed for a day"
-- given = { fixture = "report-responder" }
-- at = "2026-01-06T12:30:00Z"
-- expect = { alerts = 0 }
-- +++
SELECT r.principal_arn, r.account, max(r.event_time) AS last_report, max(r.event_id) AS event_id
FROM events r
WHERE r.event_name = 'ReportResponder' AND r.actor_class = 'responder' AND r.error_code IS NULL
  AND r.event_time > now() - INTERVAL '1 day'
  AND NOT EXISTS (SELECT 1 FROM records s WHERE s.kind = 3 AND s.leaf_time_us > (date_part('epoch', now()) - 960) * 1000000)
GROUP BY r.principal_arn, r.account
HAVING max(r.event_time) < now() - INTERVAL '16 minutes'
