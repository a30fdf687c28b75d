ALTER TABLE usage_counters
    -- Admitted and not yet done; counts against the limit.
    ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0,
    -- The period that `used` is of, for what a tier counts anew each month.
    ADD COLUMN period_start DATETIME(6) NOT NULL DEFAULT '1970-01-02 00:00:00'
