-- +++
-- id = "keys-destroyed"
-- verdict = "exceptions: a key was destroyed without a recorded request or before its waiting period was over, was used afterwards, stayed behind in a token, or a backup was restored afterwards and compared with no checkpoint. met: none of these. An approver is not recorded by the key service; who asked is"
-- population_of = "keys destroyed in the period"
-- population = '''SELECT count(*) FROM destroyed WHERE event_time >= $from AND event_time < $to'''
-- +++
SELECT CASE WHEN requested_at IS NULL OR waited_us < waiting_days * 86400000000 OR uses_after > 0 OR orphaned OR restored_unchecked > 0 THEN 'exception' ELSE 'ok' END AS finding,
       'key ' || key_arn ||
         CASE WHEN requested_at IS NULL THEN ' was destroyed without a recorded request'
              WHEN waited_us < waiting_days * 86400000000 THEN ' was destroyed before its waiting period was over'
              WHEN uses_after > 0 THEN ' was used ' || CAST(uses_after AS VARCHAR) || ' times after it was destroyed'
              WHEN orphaned THEN ' was destroyed here but could not be destroyed in its token'
              WHEN restored_unchecked > 0 THEN ' was destroyed, and later a backup was restored without comparing it with a checkpoint'
              ELSE ' was destroyed after ' || CAST(waited_us / 86400000000 AS VARCHAR) || ' days of waiting, by request of ' || coalesce(requested_by, 'a caller without a name') END AS why,
       key_arn, requested_by, requested_at, request_seq, waiting_days, event_time AS destroyed_at, log, seq, event_id, last_used_at, uses_after, restored_unchecked
FROM destroyed
WHERE event_time >= $from AND event_time < $to
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
