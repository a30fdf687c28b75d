INSERT INTO newcomers (user_id) SELECT id FROM users
