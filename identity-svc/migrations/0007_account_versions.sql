-- What live claims need of an account and the contract's columns of users have no place for.
CREATE TABLE account_versions (
    user_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    version BIGINT NOT NULL,
    -- The last change of the tier that subscription-svc has reported.
    tier_revision BIGINT NOT NULL,
    PRIMARY KEY (user_id),
    CONSTRAINT fk_account_versions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE = InnoDB
