-- How each edge is, as it told last. What has not told for long is swept.
CREATE TABLE edges (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- By the clock of the database, so that all replicas agree on who is silent.
    reported_at DATETIME(6) NOT NULL,
    version VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    started_at DATETIME(6) NOT NULL,
    epoch VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    sequence BIGINT NOT NULL,
    staleness_ms BIGINT NOT NULL,
    freshness VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    live_entries BIGINT NOT NULL,
    open_sockets BIGINT NOT NULL,
    -- From changes to the moments in which they were enforced. Of none there are no times.
    enforced BIGINT NOT NULL,
    last_ms DOUBLE NOT NULL,
    p50_ms DOUBLE NOT NULL,
    p99_ms DOUBLE NOT NULL,
    PRIMARY KEY (name),
    KEY ix_edges_reported (reported_at)
) ENGINE = InnoDB
