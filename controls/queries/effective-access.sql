-- +++
-- id = "effective-access"
-- verdict = "exceptions: everyone, or someone whom the log does not know and who is not in $approved, may use or administer a key. met: only known or approved principals may"
-- population_of = "rights to keys at the end of the period"
-- population = '''SELECT count(*) FROM access'''
-- [params]
-- approved = []
-- +++
SELECT CASE WHEN coalesce(principal IN $approved, false) THEN 'ok' WHEN principal = '*' OR unknown THEN 'exception' ELSE 'ok' END AS finding,
       CASE WHEN principal = '*' THEN 'everyone' ELSE principal END || ' may ' || class || ' ' || key_arn
         || CASE WHEN unknown THEN ', and is not known to this log' ELSE '' END AS why,
       key_arn, principal, class, actions, through, conditions, unknown
FROM access
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9
