-- +++
-- id = "audit-chain-gap"
-- version = 2
-- kind = "meta"
-- title = "The audit log does not hold together"
-- description = "Records are missing, were changed, or two versions of the log exist; or its signed checkpoint does not match the records that the trail holds. Until it is explained, treat the log above this point as forged."
-- blind_spots = ["what was never written to the log"]
-- group_key = ["log", "finding"]
-- dedup_period = "1h"
-- severity = "critical"
-- attack = ["T1562.008"]
--
-- [[test]]
-- name = "a gap"
-- given = { fixture = "integrity", repeat = 3, spread = "5m" }
-- expect = { alerts = 1, severity = "critical" }
--
-- [[test]]
-- name = "a fork and a checkpoint that does not match"
-- given = [{ fixture = "integrity", set = { finding = "fork" } }, { fixture = "integrity", set = { finding = "checkpoint-mismatch" } }]
-- expect = { alerts = 2 }
--
-- [[test]]
-- name = "a failed rule is not the log's fault"
-- given = [{ fixture = "integrity", set = { finding = "rule-failed" } }, { fixture = "integrity", set = { finding = "rule-stopped" } }]
-- expect = { alerts = 0 }
-- +++
SELECT log, finding, first_seq, last_seq, event_time, detail
FROM integrity
WHERE finding NOT IN ('rule-failed', 'rule-stopped')
