CREATE TABLE sessions (
  id              VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  user_id         VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  created_at      DATETIME(6) NOT NULL,
  last_seen_at    DATETIME(6) NOT NULL,
  idle_expires_at DATETIME(6) NOT NULL,
  expires_at      DATETIME(6) NOT NULL,
  ended_at        DATETIME(6) NULL,
  ip_address      VARCHAR(45) NOT NULL,
  user_agent      VARCHAR(512) NOT NULL,
  CONSTRAINT pk_sessions PRIMARY KEY (id),
  CONSTRAINT fk_sessions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  INDEX ix_sessions_user (user_id, ended_at),
  INDEX ix_sessions_idle (idle_expires_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
