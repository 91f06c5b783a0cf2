-- Gaps in the record: how many records each log has, and whether the numbers are dense where the lake is to be whole.
SELECT r.log, count(*) AS records, min(r.seq) AS first, max(r.seq) AS last,
       max(r.seq) - greatest(min(r.seq), l.whole_from) + 1 - count(*) FILTER (WHERE r.seq >= l.whole_from) AS missing,
       count(*) FILTER (WHERE r.parse_error IS NOT NULL) AS unreadable
FROM records r JOIN logs l ON l.log = r.log
GROUP BY r.log, l.whole_from
