-- Attempts that are counted against guessing. Shared by all replicas.
CREATE TABLE throttles (
    -- SHA-256 of the rule and of whom it counts: no e-mail of a stranger is kept.
    bucket BINARY(32) NOT NULL,
    attempts INT NOT NULL,
    blocked_until DATETIME(6) NOT NULL,
    forget_at DATETIME(6) NOT NULL,
    PRIMARY KEY (bucket),
    KEY ix_throttles_forget (forget_at)
) ENGINE = InnoDB
