CREATE TABLE refresh_tokens (
  token_hash BINARY(32) NOT NULL,
  session_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  issued_at  DATETIME(6) NOT NULL,
  spent_at   DATETIME(6) NULL,
  child_hash BINARY(32) NULL,
  child_used BOOLEAN NOT NULL DEFAULT FALSE,
  CONSTRAINT pk_refresh_tokens PRIMARY KEY (token_hash),
  CONSTRAINT fk_refresh_tokens_session FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
