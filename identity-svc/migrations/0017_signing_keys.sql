-- The keys that access tokens are signed with. Without a row the configured secret signs.
CREATE TABLE signing_keys (
    -- Empty for the configured secret itself.
    kid VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    algorithm VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    public_key VARBINARY(128) NOT NULL,
    -- Encrypted with a key that is derived from the configured secret; empty for HS256, whose keys are derived from it.
    sealed_private_key VARBINARY(512) NOT NULL,
    -- pending: known to all before it signs; active: signs; retired: its tokens are good until retire_at
    state VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at DATETIME(6) NOT NULL,
    activated_at DATETIME(6) NULL,
    retire_at DATETIME(6) NULL,
    PRIMARY KEY (kid)
) ENGINE = InnoDB
