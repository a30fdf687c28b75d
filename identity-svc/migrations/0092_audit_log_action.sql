-- The log of all accounts, filtered by what was done.
ALTER TABLE audit_log ADD KEY ix_audit_log_action (action, id)
