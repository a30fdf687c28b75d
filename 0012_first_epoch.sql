INSERT INTO auth_sequence (id, epoch, last)
VALUES (1, UUID(), 0)
