-- How many projects a user had at the end of each day (UTC) on which one was made or removed; on other days as many as
-- before.
CREATE TABLE project_days (
    owner_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    day DATE NOT NULL,
    projects BIGINT NOT NULL,
    PRIMARY KEY (owner_id, day),
    CONSTRAINT fk_project_days_owner FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
