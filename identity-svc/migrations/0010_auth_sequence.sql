-- One row. Its lock makes the order of sequence numbers the order of commits.
CREATE TABLE auth_sequence (
    id TINYINT NOT NULL,
    epoch VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    last_sequence BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB
