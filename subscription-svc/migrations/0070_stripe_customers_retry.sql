-- Not before this time is the end of one whose account is deleted tried again.
ALTER TABLE stripe_customers ADD COLUMN retry_at DATETIME(6) NULL
