//! From an accepted connection to a session: TLS, the start-up message, SCRAM.
//!
//! Clear text is refused with an error that says so. The one message taken without TLS is a request to cancel: clients send
//! it so, it names a random key that only its connection was told, and it is answered by nothing. A stranger costs one
//! handshake, bounded in time, size and number by the listener; a wrong name and a wrong password look alike.

use super::cancel::Cancels;
use super::error::WireError;
use super::stream::{Ended, STRANGER_BYTES_MAX, Stream, USER_BYTES_MAX};
use crate::query::session::CATALOG;
use crate::serve::scram::{self, Exchange, ScramError};
use crate::serve::{Door, Doors, Session, Who};
use aws_lc_rs::digest;
use bytes::{Buf, BytesMut};
use keytrail_kms::tls::Tls;
use pgwire::messages::response::ErrorResponse;
use pgwire::messages::startup::{Authentication, NegotiateProtocolVersion, SecretKey, Startup};
use pgwire::messages::{Message, PgWireBackendMessage, PgWireFrontendMessage};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// First byte of a TLS handshake that comes without asking (PostgreSQL 17 and later).
const TLS_HANDSHAKE: u8 = 0x16;
/// Before the next guess of a password can be made on this connection's slot.
const FAILED_PAUSE: Duration = Duration::from_millis(300);

/// A connection whose user is known.
pub(super) struct Entered {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// Settings that came with the start-up message.
    pub(super) settings: BTreeMap<String, String>,
}

/// None: the connection has had its answer, or wants none.
pub(super) async fn enter(
    mut tcp: TcpStream,
    peer: SocketAddr,
    tls: &Tls,
    doors: &Arc<Doors>,
    cancels: &Arc<Cancels>,
) -> Result<Option<Entered>, Ended> {
    tcp.set_nodelay(true)?;
    if !wants_tls(&mut tcp, cancels).await? {
        return Ok(None);
    }
    let loaded = tls.current();
    let end_point = end_point(&loaded.certificate);
    let mut stream = Stream::new(TlsAcceptor::from(loaded.config).accept(tcp).await?);
    let outcome = log_in(&mut stream, peer, end_point.as_deref(), doors, cancels).await;
    match outcome {
        Ok(Some((session, settings))) => {
            stream.bytes_max = USER_BYTES_MAX;
            Ok(Some(Entered { stream, session, settings }))
        }
        Ok(None) => Ok(None),
        Err(Ended::Protocol(error)) => {
            stream.put(PgWireBackendMessage::ErrorResponse(error.response())).await?;
            stream.close().await;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `tls-server-end-point` of RFC 5929, what a client binds its proof to: hash of the certificate by the hash of its signature,
/// SHA-256 for MD5 and SHA-1. None for certificates whose signature has no hash of its own, such as Ed25519.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let algorithm = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// Reads what comes in clear, and no byte further: what follows belongs to the handshake.
async fn wants_tls(tcp: &mut TcpStream, cancels: &Arc<Cancels>) -> Result<bool, Ended> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(false);
    }
    if first == [TLS_HANDSHAKE] {
        return Ok(true);
    }
    // A client asks for encryption by GSS and by TLS at most once each.
    for _ in 0..3 {
        let (length, code) = (tcp.read_i32().await?, tcp.read_i32().await?);
        match (length, code) {
            (8, SSL_REQUEST) => {
                tcp.write_all(b"S").await?;
                return Ok(true);
            }
            (8, GSS_REQUEST) => tcp.write_all(b"N").await?,
            (16, CANCEL_REQUEST) => {
                let (pid, key) = (tcp.read_i32().await?, tcp.read_i32().await?);
                cancels.cancel(pid, key);
                return Ok(false);
            }
            _ => break,
        }
    }
    let text = "this server speaks TLS only: connect with sslmode=verify-full (or require)";
    let response: ErrorResponse = WireError::fatal("28000", text).response();
    let mut out = BytesMut::new();
    response.encode(&mut out).map_err(|error| std::io::Error::other(error.to_string()))?;
    tcp.write_all(&out).await?;
    tcp.shutdown().await?;
    // Read what the client has sent, or its reset would take the error away before it is seen.
    let mut rest = [0; 1_024];
    for _ in 0..STRANGER_BYTES_MAX / rest.len() {
        if tcp.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(false)
}

async fn log_in(
    stream: &mut Stream,
    peer: SocketAddr,
    end_point: Option<&[u8]>,
    doors: &Arc<Doors>,
    cancels: &Arc<Cancels>,
) -> Result<Option<(Session, BTreeMap<String, String>)>, Ended> {
    let startup = match stream.next().await? {
        Some(PgWireFrontendMessage::Startup(startup)) => startup,
        Some(PgWireFrontendMessage::CancelRequest(request)) => {
            if let SecretKey::I32(key) = request.secret_key {
                cancels.cancel(request.pid, key);
            } else if let SecretKey::Bytes(mut key) = request.secret_key
                && key.len() == 4
            {
                cancels.cancel(request.pid, key.get_i32());
            }
            return Ok(None);
        }
        _ => return Ok(None),
    };
    let (name, application, settings) = asked(stream, startup).await?;
    let verifier = doors.users().verifier(&name);
    if let Err(error) = prove(stream, verifier, end_point).await? {
        tracing::warn!(user = crate::query::printable(&name), %peer, ?error, "login failed");
        tokio::time::sleep(FAILED_PAUSE).await;
        return Err(refused(&name));
    }
    // Again, as the file may have changed; and a name that there is not ends here at the latest.
    let Some(user) = doors.users().user(&name) else { return Err(refused(&name)) };
    let who = Who { user: name, door: Door::Postgres, client_address: peer.to_string(), application };
    let session = doors.enter(user, who).map_err(|error| Ended::Protocol(error.into()))?;
    Ok(Some((session, settings)))
}

fn refused(name: &str) -> Ended {
    let name = crate::query::printable(name);
    Ended::Protocol(WireError::fatal("28P01", format!("password authentication failed for user \"{name}\"")))
}

/// Who and what the start-up message asks for.
async fn asked(stream: &mut Stream, startup: Startup) -> Result<(String, String, BTreeMap<String, String>), Ended> {
    let refuse = |code, text: String| Err(Ended::Protocol(WireError::fatal(code, text)));
    if startup.protocol_number_major != 3 {
        return refuse("0A000", format!("protocol {} is not spoken here, 3.0 is", startup.protocol_number_major));
    }
    let mut settings = startup.parameters;
    let extensions: Vec<String> = settings.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
    settings.retain(|name, _| !name.starts_with("_pq_."));
    if startup.protocol_number_minor > 0 || !extensions.is_empty() {
        let answer = NegotiateProtocolVersion::new(3 << 16, extensions);
        stream.put(PgWireBackendMessage::NegotiateProtocolVersion(answer)).await?;
    }
    let Some(name) = settings.remove("user").filter(|name| !name.is_empty() && name.len() <= 63) else {
        return refuse("28000", "the name of a user is missing".to_owned());
    };
    if let Some(wanted) = settings.remove("replication").filter(|wanted| wanted != "false") {
        return refuse("0A000", format!("replication ({wanted}) is not supported"));
    }
    match settings.remove("database") {
        // A client that names none sends the user's name.
        Some(database) if database != CATALOG && database != name => {
            let database = crate::query::printable(&database);
            return refuse("3D000", format!("database \"{database}\" does not exist; it is \"{CATALOG}\""));
        }
        _ => {}
    }
    if let Some(options) = settings.remove("options") {
        for (name, value) in command_line(&options).map_err(Ended::Protocol)? {
            settings.insert(name, value);
        }
    }
    let application = settings.get("application_name").cloned().unwrap_or_default();
    Ok((name, application, settings))
}

/// `-c name=value` and `--name=value`, as `options` holds them; a backslash protects a space.
fn command_line(options: &str) -> Result<Vec<(String, String)>, WireError> {
    let mut words: Vec<String> = vec![String::new()];
    let mut chars = options.chars();
    while let Some(char) = chars.next() {
        match (char, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (char, _) if char.is_whitespace() => words.push(String::new()),
            (char, Some(word)) => word.push(char),
            (_, None) => {}
        }
    }
    let mut found = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(pair) => pair.to_owned(),
            None => String::new(),
        };
        let (name, value) =
            pair.split_once('=').ok_or_else(|| WireError::fatal("22023", "options are of the form -c name=value"))?;
        found.push((name.replace('-', "_").to_lowercase(), value.to_owned()));
    }
    Ok(found)
}

/// SCRAM; the inner error is a proof that does not hold.
async fn prove(
    stream: &mut Stream,
    verifier: crate::serve::verifier::Verifier,
    end_point: Option<&[u8]>,
) -> Result<Result<(), ScramError>, Ended> {
    let mut offer = vec![scram::PLAIN.to_owned()];
    if end_point.is_some() {
        offer.insert(0, scram::PLUS.to_owned());
    }
    stream.put(PgWireBackendMessage::Authentication(Authentication::SASL(offer))).await?;
    let unreadable = |_| Ended::Protocol(WireError::protocol("SASL message cannot be read"));
    let first = password_message(stream).await?.into_sasl_initial_response().map_err(unreadable)?;
    let bound = match first.auth_method.as_str() {
        scram::PLUS => end_point,
        scram::PLAIN => None,
        _ => return Err(Ended::Protocol(WireError::protocol("the mechanism was not offered"))),
    };
    let begun = Exchange::begin(verifier, first.data.as_deref().unwrap_or_default(), bound, end_point.is_some());
    let exchange = match begun {
        Ok(exchange) => exchange,
        Err(error) => return Ok(Err(error)),
    };
    let message = Authentication::SASLContinue(exchange.server_first.clone().into());
    stream.put(PgWireBackendMessage::Authentication(message)).await?;
    let last = password_message(stream).await?.into_sasl_response().map_err(unreadable)?;
    match exchange.finish(&last.data) {
        Ok(message) => {
            let message = Authentication::SASLFinal(message.into());
            stream.put(PgWireBackendMessage::Authentication(message)).await?;
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(error)),
    }
}

async fn password_message(stream: &mut Stream) -> Result<pgwire::messages::startup::PasswordMessageFamily, Ended> {
    match stream.next().await? {
        Some(PgWireFrontendMessage::PasswordMessageFamily(message)) => Ok(message),
        Some(_) => Err(Ended::Protocol(WireError::protocol("log in first"))),
        None => Err(Ended::Io(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        let pairs = command_line("-c statement_timeout=5s -cgeqo=off --search-path=a\\ b").unwrap();
        let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["statement_timeout=5s", "geqo=off", "search_path=a b"]);
        assert!(command_line("-d 5").is_err() && command_line("-c").is_err());
    }
}
