-- As long as the edge takes them from its clients.
ALTER TABLE audit_log MODIFY request_id VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
