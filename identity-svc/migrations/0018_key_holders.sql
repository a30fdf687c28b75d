-- Who is alive and which keys it accepts: every edge, and every replica of identity-svc.
CREATE TABLE key_holders (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    key_ids JSON NOT NULL,
    seen_at DATETIME(6) NOT NULL,
    PRIMARY KEY (name),
    KEY ix_key_holders_seen (seen_at)
) ENGINE = InnoDB
