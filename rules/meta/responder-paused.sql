-- +++
-- id = "responder-paused"
-- version = 1
-- kind = "event"
-- title = "The responder was paused or tripped its circuit breaker"
-- description = "From here on attacks are recorded and not contained: a pause stops everything but undos, a tripped breaker what takes something away. Whoever attacks wants exactly that, be it by the credential of an operator or by so many alerts that the breaker trips."
-- false_positives = ["a migration or a drill, announced beforehand", "a rule that was made too sharp"]
-- blind_spots = ["a responder that was stopped: rule responder-down"]
-- runbook = "Ask by_whom for the work that it was paused for. A tripped breaker: read the incidents of the last hour first, then keytrail responder reset or resume; alerts that came meanwhile are acted on by hand."
-- attack = ["T1562"]
-- compliance = ["NIST 800-53 IR-4(1)", "NIST 800-53 CM-5", "PCI DSS 4.0.1 10.7.2"]
-- status = "stable"
-- confidence = "high"
-- group_key = ["stopped_by", "subject"]
-- dedup_period = "1h"
-- severity = "high"
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
-- name = "somebody else who says so stays quiet"
-- given = { fixture = "report-responder", set = { "requestParameters.kind" = "pause", "userIdentity.arn" = "arn:aws:iam::111122223333:user/mallory" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "a report that was refused, and another call of the responder, stay quiet"
-- given = [{ fixture = "report-responder", set = { "requestParameters.kind" = "pause", errorCode = "AccessDenied" } }, { fixture = "report-responder", set = { "requestParameters.kind" = "pause", eventName = "RecordIncident" } }]
-- expect = { alerts = 0 }
-- +++
SELECT json_get_str(request_parameters, 'kind') AS stopped_by, json_get_str(request_parameters, 'subject') AS subject,
       json_get_str(request_parameters, 'by') AS by_whom, json_get_str(request_parameters, 'reason') AS reason,
       principal_arn, account, region, event_id, event_time
FROM events
WHERE event_name = 'ReportResponder' AND actor_class = 'responder' AND error_code IS NULL
  AND json_get_str(request_parameters, 'kind') IN ('pause', 'trip')
