-- How many edges a row speaks for; the one that it names was the last of them.
ALTER TABLE enforcements ADD COLUMN edges INT NOT NULL DEFAULT 1
