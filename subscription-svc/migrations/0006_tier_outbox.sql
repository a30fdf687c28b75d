-- Tiers that identity-svc has not been told yet. The id grows with every change, so it is the revision too.
CREATE TABLE tier_outbox (
    id BIGINT NOT NULL AUTO_INCREMENT,
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB
