-- Runs of the node: when each began, by its epoch records.
SELECT log, epoch, min(event_time) AS began, max(event_time) AS last_record, count(*) AS records
FROM records
GROUP BY log, epoch
ORDER BY log, epoch
