-- Each tenant's grant, who gave it, and what was done under it.
SELECT
  g.enc_context AS tenant,
  g.user_name,
  g.event_name,
  count(*) AS calls,
  max(c.user_name) AS granted_by
FROM events g
JOIN keys k ON k.key_arn = g.key_arn
JOIN events c ON c.event_name = 'CreateGrant' AND c.error_code IS NULL
  AND c.response_elements LIKE '%' || substr(g.decided_by, 7) || '%'
WHERE k.description = 'tenant notes' AND g.decided_by LIKE 'Grant/%' AND g.error_code IS NULL
GROUP BY g.enc_context, g.user_name, g.event_name
ORDER BY min(g.seq)
