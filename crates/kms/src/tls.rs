//! TLS for every listener of ours: certificate and key from files, taken anew when the files change.
//!
//! A certificate says who the server is and, when client certificates are asked for, who may connect at all; who calls is
//! said by what is spoken inside (SigV4, SCRAM, a password). A stranger can cost one handshake a
//! connection, bounded in time (ten seconds) and in number by the connections there may be. Whoever can write the key file can
//! be this server: it must not be open to everyone on the machine.

use crate::file::{Stamp, read_bounded};
use parking_lot::Mutex;
use serde::Deserialize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;

/// The protocol inside the TLS of most listeners.
pub const HTTP: &[u8] = b"http/1.1";
/// From the accepted connection to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest file read; a chain of a hundred certificates is far below.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where certificate and key are; `[kms.tls]` of keytrail.toml.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to its authority.
    pub cert_file: PathBuf,
    /// PEM: the private key, not readable by everyone.
    pub key_file: PathBuf,
    /// PEM: authorities of client certificates, which then everyone must have.
    pub client_ca_file: Option<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Missing or not readable.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Anyone on the machine could be this server.
    #[error("{path} is open to everyone: take the rights of others away")]
    Open {
        /// The key's file.
        path: PathBuf,
    },
    /// Far longer than any certificate.
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Not PEM, or nothing of its kind in it.
    #[error("find PEM in {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not belong together, or one of them is of no use.
    #[error("use certificate and key")]
    Use(#[source] rustls::Error),
    /// Authorities of clients are of no use.
    #[error("use the authorities of client certificates")]
    ClientCa(#[source] VerifierBuilderError),
}

/// The server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    alpn: &'static [u8],
    /// With the stamp of each file.
    current: Mutex<(Vec<Option<Stamp>>, Loaded)>,
}

/// What usable files hold.
#[derive(Clone)]
pub struct Loaded {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// The server's own certificate.
    pub certificate: CertificateDer<'static>,
    /// Unix time at which the first certificate of the chain to end ends; None if none of them can be read.
    pub ends_s: Option<i64>,
}

impl Tls {
    /// Reads the files. `alpn`: name of the protocol inside.
    pub fn open(files: TlsFiles, alpn: &'static [u8]) -> Result<Self, TlsError> {
        // Before the files, so that a change in between is seen by the next look.
        let stamps = stamps(&files);
        let loaded = load(&files, alpn)?;
        Ok(Self { files, alpn, current: Mutex::new((stamps, loaded)) })
    }

    /// As the files are now; with ones that are of no use the earlier ones stay in force, which is said once.
    pub fn current(&self) -> Loaded {
        let stamps = stamps(&self.files);
        let mut current = self.current.lock();
        if current.0 != stamps {
            current.0 = stamps;
            match load(&self.files, self.alpn) {
                Ok(loaded) => {
                    current.1 = loaded;
                    tracing::info!(cert = %self.files.cert_file.display(), "certificate loaded");
                }
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "new certificate is not used, the earlier one stays");
                }
            }
        }
        current.1.clone()
    }

    /// The handshake, in bounded time.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current().config);
        tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await?
    }
}

/// What a handshake settled, as events tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSession {
    /// `TLSv1.3`.
    pub(crate) version: &'static str,
    /// `TLS_AES_128_GCM_SHA256`.
    pub(crate) cipher_suite: Option<&'static str>,
}

impl TlsSession {
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        Self { version, cipher_suite: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()) }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let paths = [Some(&files.cert_file), Some(&files.key_file), files.client_ca_file.as_ref()];
    paths.into_iter().flatten().map(|path| Stamp::of(path)).collect()
}

fn load(files: &TlsFiles, alpn: &[u8]) -> Result<Loaded, TlsError> {
    let chain = certificates(&files.cert_file)?;
    let none = || TlsError::Pem { path: files.cert_file.clone(), source: pem::Error::NoItemsFound };
    let certificate = chain.first().cloned().ok_or_else(none)?;
    let ends_s = chain.iter().filter_map(|certificate| not_after(certificate)).min();
    let key = private_key(&files.key_file)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Use)?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(TlsError::Use)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(TlsError::ClientCa)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Use)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Loaded { config: Arc::new(config), certificate, ends_s })
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if found.is_empty() { Err(pem(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = zeroize::Zeroizing::new(read(path)?);
    let mode = std::fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if mode.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::Open { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = read_bounded(path, FILE_BYTES_MAX);
    let read = read.map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    read.ok_or_else(|| TlsError::TooLong { path: path.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_far_too_long_is_refused_and_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.pem");
        std::fs::write(&path, vec![b'x'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1]).unwrap();
        let files = TlsFiles { cert_file: path.clone(), key_file: path, client_ca_file: None };
        assert!(matches!(Tls::open(files, HTTP), Err(TlsError::TooLong { .. })));
    }
}
