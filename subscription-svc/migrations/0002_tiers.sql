CREATE TABLE tiers (
    id VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    position INT NOT NULL,
    display_name VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    description VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    price_monthly_cents BIGINT NOT NULL,
    price_yearly_cents BIGINT NOT NULL,
    -- -1 stands for unlimited.
    max_personas BIGINT NOT NULL,
    max_projects BIGINT NOT NULL,
    max_content_items BIGINT NOT NULL,
    requests_per_minute BIGINT NOT NULL,
    features JSON NOT NULL,
    is_active BOOLEAN NOT NULL DEFAULT TRUE,
    PRIMARY KEY (id)
) ENGINE = InnoDB
