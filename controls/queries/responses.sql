-- +++
-- id = "responses"
-- verdict = "exceptions: such an alert belongs to no incident, or, where $ended is true, to one that is neither contained nor resolved. met: each has its incident"
-- population_of = "alerts of the period of severity medium or more"
-- population = '''SELECT count(*) FROM alerts WHERE detected_at >= $from AND detected_at < $to AND severity IN ('medium', 'high', 'critical')'''
-- [params]
-- ended = true
-- +++
SELECT CASE WHEN i.incident_id IS NULL OR ($ended AND i.state = 'open') THEN 'exception' ELSE 'ok' END AS finding,
       CASE WHEN i.incident_id IS NULL THEN 'alert ' || a.rule_id || ' (' || a.severity || ') belongs to no incident'
            ELSE 'alert ' || a.rule_id || ' (' || a.severity || ') belongs to incident ' || i.incident_id || ', which is ' || i.state END AS why,
       a.alert_id, a.rule_id, a.severity, a.detected_at, i.incident_id, i.state, i.opened_at, i.changed_at
FROM alerts a LEFT JOIN incidents i ON i.alert_id = a.alert_id
WHERE a.detected_at >= $from AND a.detected_at < $to AND a.severity IN ('medium', 'high', 'critical')
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
