-- Alerts by rule and severity, with the newest.
SELECT rule_id, severity, count(DISTINCT alert_id) AS alerts, max(created) AS newest
FROM alerts
GROUP BY rule_id, severity
ORDER BY alerts DESC
