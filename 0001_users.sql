CREATE TABLE users (
  id                VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  email             VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  password_hash     VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  role              VARCHAR(50) NOT NULL DEFAULT 'user',
  client_id         VARCHAR(100) NOT NULL,
  subscription_tier VARCHAR(50) NOT NULL DEFAULT 'free',
  is_active         BOOLEAN NOT NULL DEFAULT TRUE,
  email_verified    BOOLEAN NOT NULL DEFAULT FALSE,
  created_at        DATETIME(6) NOT NULL,
  updated_at        DATETIME(6) NOT NULL,
  last_login_at     DATETIME(6) NULL,
  CONSTRAINT pk_users PRIMARY KEY (id),
  CONSTRAINT uq_users_email UNIQUE (email),
  INDEX ix_users_role (role),
  INDEX ix_users_client (client_id, created_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
