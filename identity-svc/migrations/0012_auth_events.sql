-- What must bind on tokens already issued. Without foreign keys: an event outlives the account that it disables.
CREATE TABLE auth_events (
    sequence BIGINT NOT NULL,
    kind VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    payload JSON NOT NULL,
    created_at DATETIME(6) NOT NULL,
    forget_at DATETIME(6) NOT NULL,
    PRIMARY KEY (sequence),
    KEY ix_auth_events_forget (forget_at)
) ENGINE = InnoDB
