INSERT INTO auth_sequence (id, epoch, last_sequence) VALUES (1, UUID(), 0)
