ALTER TABLE usage_counters
    -- `used` counts for life, this since period_start, for tiers that count by the month.
    ADD COLUMN month_used BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN period_end DATETIME(6) NOT NULL DEFAULT '1970-01-02 00:00:00',
    -- Whether the tier counted by the month when something was last admitted, recorded or reported.
    ADD COLUMN by_month BOOLEAN NOT NULL DEFAULT FALSE
