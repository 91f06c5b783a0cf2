-- +++
-- id = "config-changes"
-- verdict = "exceptions: configuration, identities or build differ from those of the run before, and the new value is not in $approved. met: no start changed anything that is not approved"
-- population_of = "starts of the log in the period"
-- population = '''SELECT count(*) FROM log_events WHERE kind = 3 AND event_time >= $from AND event_time < $to'''
-- [params]
-- approved = []
-- +++
WITH starts AS (
  SELECT log, seq, epoch, event_time,
         json_get_str(payload, 'build') AS build, json_get_str(payload, 'configHash') AS config, json_get_str(payload, 'identitiesHash') AS identities,
         lag(json_get_str(payload, 'build')) OVER (PARTITION BY log ORDER BY seq) AS build_before,
         lag(json_get_str(payload, 'configHash')) OVER (PARTITION BY log ORDER BY seq) AS config_before,
         lag(json_get_str(payload, 'identitiesHash')) OVER (PARTITION BY log ORDER BY seq) AS identities_before
  FROM log_events
  WHERE kind = 3
),
changed AS (
  SELECT log, seq, epoch, event_time, build, config, identities,
         build <> build_before AND NOT coalesce(build IN $approved, false) AS new_build,
         config <> config_before AND NOT coalesce(config IN $approved, false) AS new_config,
         identities <> identities_before AND NOT coalesce(identities IN $approved, false) AS new_identities
  FROM starts
  WHERE event_time >= $from AND event_time < $to
)
SELECT CASE WHEN coalesce(new_build, false) OR coalesce(new_config, false) OR coalesce(new_identities, false) THEN 'exception' ELSE 'ok' END AS finding,
       'run ' || CAST(epoch AS VARCHAR)
         || CASE WHEN coalesce(new_build, false) THEN ' has another build,' ELSE '' END
         || CASE WHEN coalesce(new_config, false) THEN ' has another configuration,' ELSE '' END
         || CASE WHEN coalesce(new_identities, false) THEN ' has other identities,' ELSE '' END
         || ' build ' || coalesce(build, 'unknown') AS why,
       log, seq, event_time, build, config AS config_hash, identities AS identities_hash
FROM changed
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
