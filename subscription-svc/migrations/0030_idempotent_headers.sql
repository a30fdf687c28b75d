-- What an answer says besides its body, as the message `Headers` of the .proto file.
ALTER TABLE idempotent_requests
    ADD COLUMN headers BLOB NULL,
    DROP COLUMN content_type
