-- What was there when days began to be kept.
INSERT INTO usage_days (user_id, resource, day, used, period_start)
SELECT user_id, resource, DATE(updated_at), used, period_start FROM usage_counters
