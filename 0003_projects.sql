CREATE TABLE projects (
  id          VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  client_id   VARCHAR(100) NOT NULL,
  name        VARCHAR(255) NOT NULL,
  description TEXT NULL,
  owner_id    VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  is_active   BOOLEAN NOT NULL DEFAULT TRUE,
  created_at  DATETIME(6) NOT NULL,
  updated_at  DATETIME(6) NOT NULL,
  CONSTRAINT pk_projects PRIMARY KEY (id),
  CONSTRAINT fk_projects_owner FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE CASCADE,
  INDEX ix_projects_owner (owner_id, created_at, id),
  INDEX ix_projects_client (client_id, created_at, id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
