-- How long access tokens live that any replica gives out, and until when there may be some: a replica that is started
-- with a shorter life must not forget what binds on the longer-lived tokens of before.
CREATE TABLE token_lives (
    -- Seconds.
    life INT NOT NULL,
    good_until DATETIME(6) NOT NULL,
    PRIMARY KEY (life)
) ENGINE = InnoDB
