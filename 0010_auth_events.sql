CREATE TABLE auth_events (
  sequence   BIGINT NOT NULL,
  kind       VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  user_id    VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  session_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
  version    BIGINT NULL,
  claims     JSON NULL,
  created_at DATETIME(6) NOT NULL,
  forget_at  DATETIME(6) NOT NULL,
  CONSTRAINT pk_auth_events PRIMARY KEY (sequence),
  INDEX ix_auth_events_forget (forget_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
