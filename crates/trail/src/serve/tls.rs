//! TLS for the SQL servers: certificate and key from files, taken anew when the files change.
//!
//! A server that cannot use them does not start. Whoever reads the key file can be this server, so it must not be open to
//! everyone on the machine. Strangers cost one handshake a connection, bounded in time and number by the listener.

use aws_lc_rs::digest;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs as provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Longest file read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// From the accepted connection to the end of the handshake, where [`Tls::accept`] does it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("{0} is open to everyone: take the rights of others away")]
    Open(PathBuf),
    /// Far longer than any certificate.
    #[error("{0} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
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
}

/// Where certificate and key are, and what they hold.
pub struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    alpn: &'static [u8],
    current: Mutex<(Vec<Option<Stamp>>, Loaded)>,
}

/// What usable files hold.
#[derive(Clone)]
pub struct Loaded {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// `tls-server-end-point` of RFC 5929: what a client binds its proof to. None for certificates whose signature has no
    /// hash of its own, such as Ed25519.
    pub end_point: Option<Arc<[u8]>>,
}

type Stamp = (u64, i64, i64, u64);

impl Tls {
    /// Reads the files. `alpn`: name of the protocol inside.
    pub fn open(cert_file: &Path, key_file: &Path, alpn: &'static [u8]) -> Result<Self, TlsError> {
        // Before the files, so that a change in between is seen by the next look.
        let stamps = vec![stamp(cert_file), stamp(key_file)];
        let loaded = load(cert_file, key_file, alpn)?;
        let (cert_file, key_file) = (cert_file.to_owned(), key_file.to_owned());
        Ok(Self { cert_file, key_file, alpn, current: Mutex::new((stamps, loaded)) })
    }

    /// The handshake, in bounded time.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(self.current().config).accept(stream)).await?
    }

    /// As the files are now; with ones that are of no use the earlier ones stay in force, which is said once.
    pub fn current(&self) -> Loaded {
        let stamps = vec![stamp(&self.cert_file), stamp(&self.key_file)];
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamps {
            current.0 = stamps;
            match load(&self.cert_file, &self.key_file, self.alpn) {
                Ok(loaded) => current.1 = loaded,
                Err(error) => {
                    let error = super::describe(&error);
                    tracing::error!(error, "new certificate is not used, the earlier one stays");
                }
            }
        }
        current.1.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

fn load(cert_file: &Path, key_file: &Path, alpn: &[u8]) -> Result<Loaded, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let text = read(cert_file)?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(pem(cert_file))?;
    let Some(first) = chain.first() else { return Err(pem(cert_file)(pem::Error::NoItemsFound)) };
    let end_point = end_point(first);
    let text = zeroize::Zeroizing::new(read(key_file)?);
    let meta = std::fs::metadata(key_file).map_err(|source| TlsError::Read { path: key_file.to_owned(), source })?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::Open(key_file.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(pem(key_file))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Use)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(TlsError::Use)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Loaded { config: Arc::new(config), end_point })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let io = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(TlsError::TooLong(path.to_owned())) } else { Ok(bytes) }
}

/// Hash of the certificate by the hash of its signature; SHA-256 for MD5 and SHA-1.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Arc<[u8]>> {
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
    Some(digest::digest(algorithm, certificate).as_ref().into())
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
        assert!(matches!(Tls::open(&path, &path, b"http/1.1"), Err(TlsError::TooLong(_))));
    }
}
