-- How many there were at the end of each day (UTC) on which a counter changed; on other days as many as before.
CREATE TABLE usage_days (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    resource VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    day DATE NOT NULL,
    used BIGINT NOT NULL,
    -- The period that `used` is of, as in usage_counters.
    period_start DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, resource, day),
    CONSTRAINT fk_usage_days_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
