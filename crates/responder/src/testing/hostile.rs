//! A receiver over HTTP that means no good: slow, broken off, endless, or sending us elsewhere. One behaviour a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What it does to whoever calls.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Reads the request and answers with these bytes.
    Answers(String),
    /// Reads the request and never answers.
    Silent,
    /// Answers a byte at a time for ever.
    Drips,
    /// Answers a head and a body without end.
    Endless,
    /// Resets the connection after the request.
    Resets,
    /// Resets it before.
    ResetsAtOnce,
    /// Speaks no TLS and no HTTP.
    Garbage,
}

/// The server; gone when dropped.
pub(crate) struct Hostile {
    pub(crate) port: u16,
    calls: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Hostile {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let behaviour = behaviour.clone();
                tokio::spawn(async move {
                    let _ = behave(stream, behaviour).await;
                });
            }
        });
        Self { port, calls, task }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn behave(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    if matches!(behaviour, Behaviour::ResetsAtOnce) {
        return stream.set_zero_linger();
    }
    if matches!(behaviour, Behaviour::Garbage) {
        return stream.write_all(&[0xff; 512]).await;
    }
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    while !super::sinks::whole(&request) {
        match stream.read(&mut chunk).await? {
            0 => break,
            read => request.extend_from_slice(&chunk[..read]),
        }
    }
    match behaviour {
        Behaviour::Answers(answer) => stream.write_all(answer.as_bytes()).await,
        Behaviour::Silent => {
            std::future::pending::<()>().await;
            Ok(())
        }
        Behaviour::Drips => loop {
            stream.write_all(b"H").await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        },
        Behaviour::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let piece = format!("{:x}\r\n{}\r\n", 65_536, "x".repeat(65_536));
            loop {
                stream.write_all(piece.as_bytes()).await?;
            }
        }
        Behaviour::Resets => stream.set_zero_linger(),
        Behaviour::ResetsAtOnce | Behaviour::Garbage => Ok(()),
    }
}
