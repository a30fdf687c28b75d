ALTER TABLE sessions ADD KEY ix_sessions_ended (ended_at)
