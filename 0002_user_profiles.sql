CREATE TABLE user_profiles (
  user_id     VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  first_name  VARCHAR(100) NULL,
  last_name   VARCHAR(100) NULL,
  company     VARCHAR(255) NULL,
  phone       VARCHAR(50) NULL,
  avatar_url  VARCHAR(500) NULL,
  preferences JSON NOT NULL,
  created_at  DATETIME(6) NOT NULL,
  updated_at  DATETIME(6) NOT NULL,
  CONSTRAINT pk_user_profiles PRIMARY KEY (user_id),
  CONSTRAINT fk_user_profiles_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
