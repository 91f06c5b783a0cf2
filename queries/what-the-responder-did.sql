-- What was done automatically, and what each action led to.
SELECT event_time, event_name, action_id, key_arn, key_state_before, key_state_after, error_code, seq
FROM events
WHERE actor_class = 'responder' AND read_only = false
ORDER BY seq
