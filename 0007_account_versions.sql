CREATE TABLE account_versions (
  user_id       VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  version       BIGINT NOT NULL,
  tier_revision BIGINT NOT NULL,
  CONSTRAINT pk_account_versions PRIMARY KEY (user_id),
  CONSTRAINT fk_account_versions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
