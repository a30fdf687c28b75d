-- Who did what to whom, from where and when; written in the transaction of the act. Without foreign keys: the log
-- outlives the accounts that it speaks of.
CREATE TABLE audit_log (
    id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    at DATETIME(6) NOT NULL,
    -- NULL when nobody was signed in, or the operator acted on the command line.
    actor_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    action VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    target_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    ip_address VARCHAR(45) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The last auth event of the act: with it, when each edge began to enforce it can be told.
    sequence BIGINT NULL,
    details JSON NOT NULL,
    PRIMARY KEY (id),
    KEY ix_audit_log_target (target_id, id),
    KEY ix_audit_log_actor (actor_id, id)
) ENGINE = InnoDB
