CREATE TABLE subscriptions (
    id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    start_date DATETIME(6) NOT NULL,
    end_date DATETIME(6) NULL,
    trial_ends_at DATETIME(6) NULL,
    cancelled_at DATETIME(6) NULL,
    payment_method VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    stripe_customer_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NULL,
    stripe_subscription_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NULL,
    created_at DATETIME(6) NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT uq_subscriptions_user UNIQUE (user_id),
    KEY ix_subscriptions_created (created_at, id),
    CONSTRAINT fk_subscriptions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
