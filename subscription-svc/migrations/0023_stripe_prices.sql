-- The prices that were seen under one of our lookup keys. Who bought one keeps the tier when the key goes to another.
CREATE TABLE stripe_prices (
    id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    lookup_key VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB
