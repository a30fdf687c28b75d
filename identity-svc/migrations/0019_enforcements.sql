-- When each edge began to enforce which auth events.
CREATE TABLE enforcements (
    edge VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    last_sequence BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    at DATETIME(6) NOT NULL,
    PRIMARY KEY (edge, last_sequence),
    KEY ix_enforcements_sequence (last_sequence),
    KEY ix_enforcements_at (at)
) ENGINE = InnoDB
