-- +++
-- id = "responder-paused"
-- version = 1
-- kind = "event"
-- title = "The responder was paused or tripped its circuit breaker"
-- description = "From here on attacks are recorded and not contained: a pause stops everything but undos, a tripped breaker what takes something away. Whoever attacks wants exactly that, be it by the credential of an operator or by so many alerts that the breaker trips."
-- false_positives = ["a migration or a drill, announced beforehand", "a rule that was made too sharp"]
-- blind_spots = ["a responder that was stopped: rule responder-down"]
-- group_key = ["stopped_by", "subject"]
-- dedup_period = "1h"
-- severity = "high"
-- attack = ["T1562"]
--
-- [[test]]
-- name = "paused"
-- given = { fixture = "report-responder", set = { "requestParameters.kind" = "pause", "requestParameters.by" = "ann (uid 1000)", "requestParameters.reason" = "migration" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the breaker of a playbook and that of everything"
-- given = [{ fixture = "report-responder", set = { "requestParameters.kind" = "trip" } }, { fixture = "report-responder", set = { "requestParameters.kind" = "trip", "requestParameters.subject" = "credential-misuse" } }]
-- expect = { alerts = 2 }
--
-- [[test]]
-- name = "told twice because the answer was lost is one alert"
-- given = { fixture = "report-responder", set = { "requestParameters.kind" = "pause" }, repeat = 2, spread = "10s" }
-- expect = { alerts = 1 }
--
-- [[test]]
-- name = "heartbeats and going on stay quiet"
-- given = [{ fixture = "report-responder", repeat = 5, spread = "20m" }, { fixture = "report-responder", set = { "requestParameters.kind" = "resume" } }, { fixture = "report-responder", set = { "requestParameters.kind" = "reset" } }]
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "somebody else who says so, and is refused, stays quiet"
-- given = { fixture = "report-responder", set = { "requestParameters.kind" = "pause", "userIdentity.arn" = "arn:aws:iam::111122223333:user/mallory", errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
-- +++
SELECT json_get_str(request_parameters, 'kind') AS stopped_by, json_get_str(request_parameters, 'subject') AS subject,
       json_get_str(request_parameters, 'by') AS by_whom, json_get_str(request_parameters, 'reason') AS reason,
       principal_arn, account, region, event_id, event_time
FROM events
WHERE event_name = 'ReportResponder' AND actor_class = 'responder' AND error_code IS NULL
  AND json_get_str(request_parameters, 'kind') IN ('pause', 'trip')
