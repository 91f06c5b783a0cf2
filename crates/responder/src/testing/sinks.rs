//! Servers for tests that remember what they got: SMTP byte by byte, HTTP request by request.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// An SMTP server that keeps what it got, byte by byte.
pub(crate) struct SmtpSink {
    pub(crate) port: u16,
    got: Arc<Mutex<SinkState>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct SinkState {
    mails: Vec<Vec<u8>>,
    receivers: Vec<String>,
    connections: usize,
    /// Answers to commands that begin so, and whether they are given once; no answer is to hang up.
    script: Vec<(String, Option<String>, bool)>,
}

impl SinkState {
    fn scripted(&mut self, command: &str) -> Option<Option<String>> {
        let upper = command.to_uppercase();
        let at = self.script.iter().position(|(begin, ..)| upper.starts_with(&begin.to_uppercase()))?;
        Some(if self.script[at].2 { self.script.remove(at).1 } else { self.script[at].1.clone() })
    }
}

impl SmtpSink {
    pub(crate) async fn start() -> Self {
        Self::start_on(0).await
    }

    pub(crate) async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(SinkState::default()));
        let state = Arc::clone(&got);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let _ = converse(stream, state).await;
                });
            }
        });
        Self { port, got, task }
    }

    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        self.got.lock().unwrap().mails.clone()
    }

    pub(crate) fn receivers(&self) -> Vec<String> {
        self.got.lock().unwrap().receivers.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.got.lock().unwrap().connections
    }

    /// Answers commands that begin so (`.` is the end of a mail, `CONNECT` the greeting) with this.
    pub(crate) fn answer(&self, begin: &str, answer: &str) {
        self.got.lock().unwrap().script.push((begin.into(), Some(answer.into()), false));
    }

    /// Hangs up without a word, every time or only the next one.
    pub(crate) fn hang_up_at(&self, begin: &str, once: bool) {
        self.got.lock().unwrap().script.push((begin.into(), None, once));
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(stream: tokio::net::TcpStream, state: Arc<Mutex<SinkState>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let greeting = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        state.scripted("CONNECT").unwrap_or_else(|| Some("220 sink ESMTP".into()))
    };
    let Some(greeting) = greeting else { return Ok(()) };
    stream.write_all(format!("{greeting}\r\n").as_bytes()).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_owned();
        let verb = command.split(' ').next().unwrap_or_default().to_uppercase();
        let scripted = state.lock().unwrap().scripted(&command);
        match scripted {
            None => {}
            Some(None) => return Ok(()),
            Some(Some(answer)) => {
                stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
                continue;
            }
        }
        let answer = match verb.as_str() {
            "EHLO" => "250-sink\r\n250 8BITMIME".to_owned(),
            "RCPT" => {
                state.lock().unwrap().receivers.push(command);
                "250 ok".into()
            }
            "DATA" => {
                stream.write_all(b"354 go\r\n").await?;
                let mut mail = Vec::new();
                while !mail.ends_with(b"\r\n.\r\n") {
                    mail.push(stream.read_u8().await?);
                }
                mail.truncate(mail.len() - 3);
                let mut state = state.lock().unwrap();
                let Some(answer) = state.scripted(".").unwrap_or_else(|| Some("250 ok".into())) else {
                    // The ambiguous case: it has the mail and does not say so.
                    state.mails.push(mail);
                    return Ok(());
                };
                if answer.starts_with('2') {
                    state.mails.push(mail);
                }
                answer
            }
            "QUIT" => "221 bye".into(),
            _ => "250 ok".into(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

/// An HTTP server that keeps its requests and answers with a given status.
pub(crate) struct HttpSink {
    pub(crate) port: u16,
    got: Arc<Mutex<(Vec<String>, String)>>,
}

impl HttpSink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new((Vec::new(), "200 OK".to_owned())));
        let state = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
                while !whole(&request) {
                    match stream.read(&mut chunk).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                let status = {
                    let mut state = state.lock().unwrap();
                    state.0.push(String::from_utf8_lossy(&request).into_owned());
                    state.1.clone()
                };
                let head = "location: http://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close";
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n").as_bytes()).await;
            }
        });
        Self { port, got }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.got.lock().unwrap().0.clone()
    }

    pub(crate) fn answer_with(&self, status: &str) {
        self.got.lock().unwrap().1 = status.into();
    }
}

pub(super) fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
