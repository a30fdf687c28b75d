-- Mails that are to be sent, written in the transaction of the act. What they say is made when they are sent, so that
-- no token lies here. Without foreign keys: a link may be asked for whether there is an account or not.
CREATE TABLE mail_outbox (
    id BIGINT NOT NULL AUTO_INCREMENT,
    kind VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    email VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- Who caused it.
    ip_address VARCHAR(45) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    queued_at DATETIME(6) NOT NULL,
    -- Lies ahead while a replica sends it: should that one die, another sends it then.
    due_at DATETIME(6) NOT NULL,
    -- How often the mail server did not want it yet.
    refusals INT NOT NULL,
    PRIMARY KEY (id),
    KEY ix_mail_outbox_due (due_at),
    KEY ix_mail_outbox_email (email, kind)
) ENGINE = InnoDB
