-- The answers to requests with an Idempotency-Key, for as long as a client may repeat them.
CREATE TABLE idempotent_requests (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    idempotency_key VARBINARY(255) NOT NULL,
    -- SHA-256 of method, path and body
    fingerprint BINARY(32) NOT NULL,
    -- Who runs it, until when; nobody once the answer is there.
    runner VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    runs_until DATETIME(6) NULL,
    status SMALLINT UNSIGNED NULL,
    content_type VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    body MEDIUMBLOB NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, idempotency_key),
    KEY ix_idempotent_requests_created (created_at),
    CONSTRAINT fk_idempotent_requests_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
