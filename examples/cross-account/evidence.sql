-- Every use of our keys from another account, and which side's permission let it through.
SELECT e.principal_account, e.user_name, e.event_name, e.error_code, e.decided_by, count(*) AS calls
FROM events e
WHERE e.key_account = '123456789012' AND e.principal_account <> e.key_account
GROUP BY e.principal_account, e.user_name, e.event_name, e.error_code, e.decided_by
ORDER BY min(e.seq)
