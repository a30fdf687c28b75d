-- One row for each thing that was admitted, by the key of the caller: a repeated call has one effect.
CREATE TABLE reservations (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    idempotency_key VARBINARY(160) NOT NULL,
    resource VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- reserved, committed or released
    state VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(6) NOT NULL,
    expires_at DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, idempotency_key),
    KEY ix_reservations_expiry (state, expires_at),
    CONSTRAINT fk_reservations_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
