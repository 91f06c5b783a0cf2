//! A mail server for benches: takes what comes over loopback in plain text, and knows when it did.
//!
//! Only what our own mailer says is understood; a mail counts as accepted when the answer to its end was written.

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Mails that wait to be looked at; a sender waits beyond them.
const MAILS_MAX: usize = 1_024;

pub(crate) struct Mailbox {
    pub(crate) port: u16,
    mails: mpsc::Receiver<Mail>,
    /// How many were taken from it.
    pub(crate) seen: usize,
}

struct Mail {
    accepted: Instant,
    text: String,
}

impl Mailbox {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for mail")?;
        let port = listener.local_addr().context("listen for mail")?.port();
        let (sender, mails) = mpsc::channel(MAILS_MAX);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is the mailer's to report and to open again.
                tokio::spawn(converse(stream, sender.clone()));
            }
        });
        Ok(Self { port, mails, seen: 0 })
    }

    /// How many mails came that nobody looked at.
    pub(crate) fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.mails.try_recv().ok()).count()
    }

    /// When the first mail with a line that ends so was accepted. Those before it are not looked at again.
    pub(crate) async fn first_about(&mut self, ending: &str, patience: Duration) -> anyhow::Result<Instant> {
        let found = async {
            while let Some(mail) = self.mails.recv().await {
                self.seen += 1;
                if mail.text.lines().any(|line| line.ends_with(ending)) {
                    return Ok(mail.accepted);
                }
            }
            bail!("the mail server ended")
        };
        let found = tokio::time::timeout(patience, found).await;
        found.with_context(|| format!("no mail about {ending} after {} s", patience.as_secs()))?
    }
}

async fn converse(stream: TcpStream, mails: mpsc::Sender<Mail>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 bench ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let (answer, mail) = match line.get(..4) {
            Some("EHLO") => ("250-bench\r\n250 8BITMIME\r\n", None),
            Some("DATA") => {
                stream.write_all(b"354 go\r\n").await?;
                ("250 taken\r\n", Some(body(&mut stream).await?))
            }
            Some("QUIT") => ("221 bye\r\n", None),
            _ => ("250 ok\r\n", None),
        };
        stream.write_all(answer.as_bytes()).await?;
        if let Some(text) = mail {
            mails.send(Mail { accepted: Instant::now(), text }).await?;
        }
    }
}

/// Reads a mail to its end; gives its text, which the mailer always sends in base64.
async fn body(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let (mut line, mut encoded, mut in_body) = (String::new(), String::new(), false);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            bail!("a mail has no end");
        }
        match line.trim_end() {
            "." => break,
            "" => in_body = true,
            text if in_body => encoded.push_str(text),
            _ => {}
        }
    }
    let bytes = BASE64.decode(encoded).context("read a mail")?;
    String::from_utf8(bytes).context("read a mail")
}
