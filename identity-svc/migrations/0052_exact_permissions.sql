-- The collation takes "x" and "x " for one: what was granted with spaces at the end becomes what it was meant to be.
UPDATE user_permissions SET permission = TRIM(TRAILING ' ' FROM permission) WHERE permission LIKE '% '
