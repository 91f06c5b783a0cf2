-- From the event to the alert, by rule, in milliseconds.
SELECT rule_id, count(*) AS alerts,
       approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS p50_ms,
       approx_percentile_cont(0.99) WITHIN GROUP (ORDER BY waited) AS p99_ms
FROM (
  SELECT rule_id, (json_get_int(json, 'detectedAtMicros') - json_get_int(json, 'lastEventMicros')) / 1000.0 AS waited
  FROM alerts
  WHERE revision = 0
)
GROUP BY rule_id
ORDER BY p99_ms DESC
