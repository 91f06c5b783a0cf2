-- Gaps in the record: how many records each log has, and whether the numbers are dense.
SELECT log, count(*) AS records, min(seq) AS first, max(seq) AS last, max(seq) - min(seq) + 1 - count(*) AS missing,
       count(*) FILTER (WHERE parse_error IS NOT NULL) AS unreadable
FROM records
GROUP BY log
