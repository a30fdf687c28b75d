-- The customers that were made at Stripe, and where each stands.
CREATE TABLE stripe_customers (
    customer_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Outlives the account, so that a deleted one is not charged again.
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL,
    -- How often it was looked at.
    revision BIGINT NOT NULL DEFAULT 0,
    -- The last page on which a tier can be bought.
    checkout_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NULL,
    past_due_since DATETIME(6) NULL,
    -- When it is looked at again without a word from Stripe.
    look_at DATETIME(6) NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (customer_id),
    CONSTRAINT uq_stripe_customers_user UNIQUE (user_id),
    KEY ix_stripe_customers_look (look_at),
    CONSTRAINT fk_stripe_customers_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL
) ENGINE = InnoDB
