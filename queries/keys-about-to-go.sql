-- Keys that wait for their deletion, soonest first, and who asked for it.
SELECT k.key_arn, k.description, k.deletion_date, e.principal_arn AS scheduled_by, e.event_time AS scheduled_at, e.mfa
FROM keys k
LEFT JOIN events e ON e.event_id = k.last_event_id
WHERE k.key_state IN ('PendingDeletion', 'PendingReplicaDeletion')
ORDER BY k.deletion_date
