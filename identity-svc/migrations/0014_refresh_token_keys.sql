ALTER TABLE refresh_tokens
    ADD KEY ix_refresh_tokens_parent (parent_hash),
    ADD KEY ix_refresh_tokens_access (access_jti),
    ADD KEY ix_refresh_tokens_spent (spent_at)
