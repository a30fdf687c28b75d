//! As much of SMTP (RFC 5321) as a mail program of ours speaks. Misbehaves on request: what goes to `refused…@` is
//! refused, and the first mail to each `later…@` is put off; at `closed…@` the connection ends with 421, and at `silent…@`
//! nothing is said any more.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::mailbox::Mailbox;

/// Longest line of a client, in bytes.
const MAX_LINE: u64 = 4096;
/// Largest mail, in bytes.
const MAX_MAIL: usize = 10 << 20;

/// Takes mails for as long as the process lives.
pub async fn serve(listener: TcpListener, mailbox: Mailbox) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(talk(stream, mailbox.clone()));
            }
            Err(error) => {
                eprintln!("mail-catcher: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk(mut stream: TcpStream, mailbox: Mailbox) {
    let (reader, writer) = stream.split();
    let mut session = Session { reader: BufReader::new(reader), writer, mailbox, to: Vec::new() };
    // A client that breaks off has said all it wanted.
    let _ = session.run().await;
}

struct Session<R, W> {
    reader: R,
    writer: W,
    mailbox: Mailbox,
    /// The recipients of the mail that is being handed over.
    to: Vec<String>,
}

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    async fn run(&mut self) -> io::Result<()> {
        self.say("220 mail-catcher").await?;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let command = line.split([' ', ':', '\r', '\n']).next().unwrap_or_default();
            match command.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.say("250-mail-catcher\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING").await?;
                }
                "HELO" | "NOOP" => self.say("250 OK").await?,
                "MAIL" | "RSET" => {
                    self.to.clear();
                    self.say("250 OK").await?;
                }
                "RCPT" if names(&line, "closed") => return self.say("421 4.3.2 not now").await,
                "RCPT" if names(&line, "silent") => return self.wait_for_the_end().await,
                "RCPT" => self.recipient(&line).await?,
                "DATA" if self.to.is_empty() => self.say("503 no recipient").await?,
                "DATA" => self.data().await?,
                "QUIT" => return self.say("221 bye").await,
                _ => self.say("502 not implemented").await?,
            }
        }
    }

    async fn wait_for_the_end(&mut self) -> io::Result<()> {
        while !self.line().await?.is_empty() {}
        Ok(())
    }

    async fn recipient(&mut self, line: &str) -> io::Result<()> {
        let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let Some((address, _)) = address else { return self.say("501 no address").await };
        if address.starts_with("refused") {
            return self.say("550 5.1.1 no such mailbox").await;
        }
        if address.starts_with("later") && self.mailbox.put_off(address) {
            return self.say("451 4.7.1 come back later").await;
        }
        self.to.push(address.to_owned());
        self.say("250 OK").await
    }

    async fn data(&mut self) -> io::Result<()> {
        self.say("354 go on").await?;
        let mut mail = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix(b".").unwrap_or(&line) {
                _ if line.is_empty() => return Ok(()),
                b"\r\n" if line.starts_with(b".") => break,
                content => mail.extend_from_slice(content),
            }
            if mail.len() > MAX_MAIL {
                return self.say("552 too large").await;
            }
        }
        let kept = self.mailbox.keep(std::mem::take(&mut self.to), &mail);
        self.say(if kept { "250 OK" } else { "554 no mail that can be read" }).await
    }

    /// A line with its end; empty when there is none any more.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        Ok(line)
    }

    async fn say(&mut self, reply: &str) -> io::Result<()> {
        self.writer.write_all(format!("{reply}\r\n").as_bytes()).await
    }
}

/// Whether the recipient of a line begins like this.
fn names(line: &str, begin: &str) -> bool {
    line.split_once('<').is_some_and(|(_, address)| address.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(client: &str) -> (String, Mailbox) {
        let mailbox = Mailbox::default();
        let (reader, mut writer) = (BufReader::new(client.as_bytes()), Vec::new());
        let mut session = Session { reader, writer: &mut writer, mailbox: mailbox.clone(), to: Vec::new() };
        session.run().await.expect("talked");
        (String::from_utf8(writer).expect("text"), mailbox)
    }

    #[tokio::test]
    async fn a_mail_is_kept_as_it_was_written() {
        let mail = "EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n\
                    From: A <a@example.com>\r\nSubject: =?utf-8?Q?=C3=BC?=\r\n\r\n..two\r\nlines\r\n.\r\nQUIT\r\n";
        let (replies, mailbox) = said(mail).await;
        assert!(replies.ends_with("221 bye\r\n"), "{replies}");
        let mails = mailbox.mails(Some("b@example.com"));
        let [mail] = mails.as_slice() else { panic!("{mails:?}") };
        assert_eq!((mail.from.as_str(), mail.subject.as_str()), ("a@example.com", "ü"));
        assert_eq!(mail.text.trim_end(), ".two\r\nlines");
        assert!(mailbox.mails(Some("c@example.com")).is_empty());
    }

    #[tokio::test]
    async fn some_are_refused_and_some_put_off() {
        let lines = "MAIL FROM:<a@example.com>\r\nRCPT TO:<refused@example.com>\r\nDATA\r\n\
                     RCPT TO:<later@example.com>\r\nRCPT TO:<later@example.com>\r\nAUTH PLAIN\r\n";
        let (replies, _) = said(lines).await;
        let codes: Vec<&str> = replies.lines().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "250", "550", "503", "451", "250", "502"]);
    }

    #[tokio::test]
    async fn some_end_the_conversation() {
        for (recipient, end) in [("closed", "421 4.3.2 not now\r\n"), ("silent", "250 OK\r\n")] {
            let lines = format!("MAIL FROM:<a@example.com>\r\nRCPT TO:<{recipient}@example.com>\r\nQUIT\r\n");
            let (replies, _) = said(&lines).await;
            assert!(replies.ends_with(end), "{replies}");
        }
    }
}
