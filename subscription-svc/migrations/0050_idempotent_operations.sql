-- The same for every run of a key. Rows from before have none; their runs are those of one runner.
ALTER TABLE idempotent_requests ADD COLUMN operation_id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NULL
