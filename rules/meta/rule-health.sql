-- +++
-- id = "rule-health"
-- version = 2
-- kind = "meta"
-- title = "A rule could not be evaluated or was stopped"
-- description = "The rule skipped the named records, or went beyond its limits and no longer runs over this log. A detection that fails silently is worse than none."
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
-- name = "a rule that was stopped"
-- given = { fixture = "integrity", set = { finding = "rule-stopped" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "a gap in the log is not a failed rule"
-- given = { fixture = "integrity" }
-- expect = { alerts = 0 }
-- +++
SELECT log, finding, first_seq, last_seq, event_time, detail
FROM integrity
WHERE finding IN ('rule-failed', 'rule-stopped')
