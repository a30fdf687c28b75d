-- Lists for administrators: each order and each filter has an index, so that a page of a million users is read and not
-- sorted. The id at the end of every key of InnoDB makes the order whole.
ALTER TABLE users
    ADD KEY ix_users_created (created_at),
    ADD KEY ix_users_updated (updated_at),
    ADD KEY ix_users_last_login (last_login_at),
    ADD KEY ix_users_client (client_id, created_at),
    ADD KEY ix_users_tier (subscription_tier, created_at),
    ADD KEY ix_users_active (is_active, created_at),
    ADD KEY ix_users_role_created (role, created_at),
    DROP KEY ix_users_role
