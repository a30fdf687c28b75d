-- What the sweep looks for: trials and cancelled periods that are over.
ALTER TABLE subscriptions
    ADD KEY ix_subscriptions_trial_end (status, trial_ends_at),
    ADD KEY ix_subscriptions_end (status, end_date)
