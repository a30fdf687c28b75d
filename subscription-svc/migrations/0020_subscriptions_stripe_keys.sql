-- Who pays at Stripe pays for one user alone.
ALTER TABLE subscriptions
    ADD CONSTRAINT uq_subscriptions_stripe_customer UNIQUE (stripe_customer_id),
    ADD CONSTRAINT uq_subscriptions_stripe_subscription UNIQUE (stripe_subscription_id)
