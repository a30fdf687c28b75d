-- What was counted by the month until now was all that was known.
UPDATE usage_counters SET month_used = used, by_month = TRUE
WHERE resource = 'content' AND period_start > '1970-01-02 00:00:00'
