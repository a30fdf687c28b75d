CREATE TABLE user_permissions (
  user_id         VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  permission_name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  granted_at      DATETIME(6) NOT NULL,
  CONSTRAINT pk_user_permissions PRIMARY KEY (user_id, permission_name),
  CONSTRAINT fk_user_permissions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  CONSTRAINT fk_user_permissions_permission FOREIGN KEY (permission_name) REFERENCES permissions (name)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
