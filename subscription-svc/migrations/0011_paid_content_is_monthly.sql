UPDATE tiers SET content_is_monthly = TRUE WHERE id IN ('basic', 'premium')
