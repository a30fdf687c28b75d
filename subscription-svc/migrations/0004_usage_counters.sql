CREATE TABLE usage_counters (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    resource VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    used BIGINT NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, resource),
    CONSTRAINT fk_usage_counters_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
