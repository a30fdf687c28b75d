-- The links that were mailed: the SHA-256 of each token, never the token. A new one takes the place of the former one
-- of its purpose.
CREATE TABLE email_tokens (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    purpose VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    token_hash BINARY(32) NOT NULL,
    -- The address that it was sent to, and so the one that it proves.
    email VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- The mail that it is in: an older one that comes late must not take the place of a newer one.
    mail_id BIGINT NOT NULL,
    expires_at DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, purpose),
    CONSTRAINT uq_email_tokens_hash UNIQUE (token_hash),
    KEY ix_email_tokens_expiry (expires_at),
    CONSTRAINT fk_email_tokens_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
