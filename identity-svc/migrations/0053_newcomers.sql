-- Accounts of which subscription-svc has not said yet that they have a subscription.
CREATE TABLE newcomers (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (user_id),
    CONSTRAINT fk_newcomers_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
