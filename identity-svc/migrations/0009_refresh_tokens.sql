-- One row for each refresh token that was given out: the SHA-256 of the token, never the token.
CREATE TABLE refresh_tokens (
    token_hash BINARY(32) NOT NULL,
    session_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The token that this one was got for, and the access token that came with it: proof of use of a lost answer.
    parent_hash BINARY(32) NULL,
    access_jti VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    issued_at DATETIME(6) NOT NULL,
    spent_at DATETIME(6) NULL,
    used_at DATETIME(6) NULL,
    PRIMARY KEY (token_hash),
    KEY ix_refresh_tokens_session (session_id),
    CONSTRAINT fk_refresh_tokens_session FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE
) ENGINE = InnoDB
