-- What Stripe has told and was taken in, so that an event that is sent again changes nothing.
CREATE TABLE stripe_events (
    id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    taken_at DATETIME(6) NOT NULL,
    PRIMARY KEY (id),
    KEY ix_stripe_events_taken (taken_at)
) ENGINE = InnoDB
