-- +++
-- id = "key-material-imported"
-- version = 1
-- kind = "event"
-- title = "Key material was imported"
-- description = "Whoever knows the material can decrypt without the key service, and material with a short life ends the key without a waiting period. High when the material ends within the short life, or replaces other bytes."
-- false_positives = ["a planned import"]
-- blind_spots = ["a copy of the material that the importer keeps"]
-- group_key = ["principal_arn", "key_arn"]
-- dedup_period = "1m"
-- params = { short_life_days = 30 }
-- severity = "CASE WHEN short_lived OR replaces_other THEN 'high' ELSE 'medium' END"
-- attack = ["T1608.003"]
--
-- [[test]]
-- name = "material that does not expire is medium"
-- given = { fixture = "import-key-material" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "material that ends within days is high"
-- given = { fixture = "import-key-material", set = { "additionalEventData.after.validTo" = "2026-01-12T12:00:00Z" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "material that ends after the short life is medium"
-- given = { fixture = "import-key-material", set = { "additionalEventData.after.validTo" = "2026-02-05T12:00:00Z" } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "other bytes than before are high"
-- given = { fixture = "import-key-material", set = { "additionalEventData.before.keyMaterialId" = "2222" } }
-- expect = { alerts = 1, severity = "high" }
--
-- [[test]]
-- name = "the same bytes again are medium"
-- given = { fixture = "import-key-material", set = { "additionalEventData.before.keyMaterialId" = "1111111111111111111111111111111111111111111111111111111111111111" } }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "two keys are two alerts, repeats of one are not"
-- given = [
--   { fixture = "import-key-material", repeat = 3, spread = "20s" },
--   { fixture = "import-key-material", set = { "resources.0.ARN" = "arn:aws:kms:eu-west-1:111122223333:key/other" }, at = "5s" },
-- ]
-- expect = { alerts = 2 }
--
-- [[test]]
-- name = "a refused call stays quiet"
-- given = { fixture = "import-key-material", set = { errorCode = "AccessDenied" } }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "deleting material stays quiet"
-- given = { fixture = "delete-key-material" }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, key_arn, account, region, event_id, event_time, source_ip, user_agent, mfa, actor_class,
       coalesce(date_part('epoch', to_timestamp_micros(json_get_str(additional, 'after', 'validTo'))) - date_part('epoch', event_time)
         < $short_life_days * 86400, false) AS short_lived,
       coalesce(json_get_str(additional, 'before', 'keyMaterialId') <> json_get_str(additional, 'after', 'keyMaterialId'), false)
         AS replaces_other
FROM events
WHERE event_name = 'ImportKeyMaterial' AND error_code IS NULL
