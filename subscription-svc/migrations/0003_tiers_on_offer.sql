INSERT INTO tiers (id, position, display_name, description, price_monthly_cents, price_yearly_cents, max_personas,
                   max_projects, max_content_items, requests_per_minute, features)
VALUES
    ('free', 1, 'Free', 'To look around', 0, 0, 1, 3, 10, 60, '["1 persona", "3 projects", "10 content items"]'),
    ('basic', 2, 'Basic', 'For one person', 999, 9999, 5, 10, 100, 300,
     '["5 personas", "10 projects", "100 content items"]'),
    ('premium', 3, 'Premium', 'For teams', 2999, 29999, 20, 50, 1000, 1000,
     '["20 personas", "50 projects", "1000 content items"]'),
    ('enterprise', 4, 'Enterprise', 'Without limits', 9999, 99999, -1, -1, -1, -1,
     '["Unlimited personas, projects and content"]')
