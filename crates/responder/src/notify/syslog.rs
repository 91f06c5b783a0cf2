//! Syslog (RFC 5424) to a SIEM over TLS (RFC 5425), or plain TCP on loopback: one OCSF finding a message.
//!
//! Messages are counted, not ended by a line end (RFC 6587), and hold ASCII alone: text of events cannot begin another
//! message. Syslog knows no answer: success is that the other side took the bytes and did not break the connection
//! before it saw our end of it. What a collector loses after that, nobody can tell; a second receiver can.

use crate::config::TlsMode;
use crate::notify::queue::Notice;
use crate::notify::receivers::{Kind, ReceiverError, SyslogSettings};
use crate::notify::render::{Message, time};
use crate::notify::{Channel, DeliveryError, egress, http, ocsf};
use crate::playbook::Severity;
use async_trait::async_trait;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Facility 13, "log audit".
const FACILITY: u8 = 13;
/// How long the other side may take to close after us; that it does not is no failure.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Sends findings.
pub(crate) struct Syslog {
    name: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Syslog {
    /// Reads the CA, if there is one; does not connect.
    pub(crate) fn new(name: &str, settings: &SyslogSettings) -> Result<Self, ReceiverError> {
        let tls = match settings.tls {
            TlsMode::Tls => Some(tls(settings)?),
            TlsMode::None if egress::is_loopback(&settings.host) => None,
            TlsMode::None | TlsMode::Starttls => return Err(ReceiverError::SyslogPlaintext(settings.host.clone())),
        };
        let (host, port) = (settings.host.clone(), settings.port);
        Ok(Self { name: name.to_owned(), host, port, tls, timeout: settings.timeout })
    }

    async fn send(&self, message: &str) -> std::io::Result<()> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, self.port)).await?;
        let frame = format!("{} {message}", message.len());
        match &self.tls {
            Some((connector, name)) => put(connector.connect(name.clone(), stream).await?, &frame).await,
            None => put(stream, &frame).await,
        }
    }
}

#[async_trait]
impl Channel for Syslog {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Syslog
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        match tokio::time::timeout(self.timeout, self.send(&notice.body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DeliveryError::Later(error.to_string())),
            Err(_elapsed) => Err(DeliveryError::Later("the collector is too slow".into())),
        }
    }
}

/// Writes the frame and our end, then waits until the other side ends too or is quiet long enough.
async fn put<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, frame: &str) -> std::io::Result<()> {
    stream.write_all(frame.as_bytes()).await?;
    stream.flush().await?;
    stream.shutdown().await?;
    let mut answer = [0; 1];
    match tokio::time::timeout(CLOSE_WAIT, stream.read(&mut answer)).await {
        // Closed, without TLS's own farewell at worst; or it talks or stays, which collectors may.
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}

fn tls(settings: &SyslogSettings) -> Result<(TlsConnector, ServerName<'static>), ReceiverError> {
    let invalid =
        |error: &dyn std::fmt::Display| ReceiverError::Tls(Error::new(ErrorKind::InvalidInput, error.to_string()));
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca_file {
        for certificate in CertificateDer::pem_slice_iter(&http::read(path)?) {
            let certificate = certificate.map_err(|error| invalid(&error))?;
            roots.add(certificate).map_err(|error| invalid(&error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bare = settings.host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| invalid(&error))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// One message, without its length.
pub(crate) fn body(message: &Message<'_>) -> String {
    let severity = match message.severity() {
        Severity::Critical => 2,
        Severity::High => 3,
        Severity::Medium => 4,
        Severity::Low => 5,
        Severity::Info => 6,
    };
    let kind = match message {
        Message::Incident(_) => "incident",
        Message::Page(page) if page.heartbeat => "heartbeat",
        Message::Page(_) => "page",
    };
    let priority = FACILITY * 8 + severity;
    let finding = ascii(&ocsf::finding(message).to_string());
    format!("<{priority}>1 {} - keytrail - {kind} - {finding}", time(message.at_us()))
}

/// JSON says any character in ASCII.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            text.push(c);
        } else {
            c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::notice;
    use tokio::net::TcpListener;

    fn settings(host: &str, port: u16, tls: TlsMode) -> SyslogSettings {
        SyslogSettings { host: host.into(), port, tls, ca_file: None, timeout: Duration::from_secs(5) }
    }

    #[test]
    fn plain_text_is_for_loopback_only() {
        assert!(Syslog::new("siem", &settings("127.0.0.1", 601, TlsMode::None)).is_ok());
        assert!(Syslog::new("siem", &settings("siem.example.org", 6514, TlsMode::Tls)).is_ok());
        for (host, tls) in [("siem.example.org", TlsMode::None), ("127.0.0.1", TlsMode::Starttls)] {
            assert!(matches!(Syslog::new("siem", &settings(host, 1, tls)), Err(ReceiverError::SyslogPlaintext(_))));
        }
    }

    #[test]
    fn json_is_ascii_and_says_the_same() {
        let text = ascii("{\"a\":\"é😀\\u0000\"}");
        assert!(text.is_ascii());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["a"], "é😀\0");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn frames_are_counted_and_a_reset_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let syslog = Syslog::new("siem", &settings("127.0.0.1", listener.local_addr().unwrap().port(), TlsMode::None));
        let syslog = syslog.unwrap();
        let taking = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            // The second one is cut off with bytes unread, which resets it.
            let (stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            stream.set_zero_linger().unwrap();
            drop(stream);
            (got, listener)
        });
        syslog.deliver(&notice("<106>1 x")).await.unwrap();
        assert!(matches!(syslog.deliver(&notice("<106>1 x")).await, Err(DeliveryError::Later(_))));
        let (got, listener) = taking.await.unwrap();
        assert_eq!(got, "8 <106>1 x");
        drop(listener);
        assert!(matches!(syslog.deliver(&notice("<106>1 x")).await, Err(DeliveryError::Later(_))));
    }
}
