-- +++
-- id = "rule-health"
-- version = 1
-- kind = "meta"
-- title = "A rule could not be evaluated"
-- description = "The rule skipped the named records. A detection that fails silently is worse than none."
-- blind_spots = ["rules that are evaluated but wrong"]
-- group_key = ["log", "finding"]
-- dedup_period = "1h"
-- severity = "high"
-- attack = ["T1562"]
--
-- [[test]]
-- name = "a failed rule"
-- given = { fixture = "integrity", set = { finding = "rule-failed" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a gap in the log is not a failed rule"
-- given = { fixture = "integrity" }
-- expect = { alerts = 0 }
-- +++
SELECT log, finding, first_seq, last_seq, event_time, detail
FROM integrity
WHERE finding = 'rule-failed'
