//! Mail by SMTP, one plain-text part, always in base64.
//!
//! RUSTSEC-2026-0561: lettre 0.11.23 escapes a leading dot only after CRLF, so a body with bare line ends could smuggle
//! commands past some servers. Base64 has neither dots nor bare line ends, so the precondition is gone; `send_raw` is
//! never used, addresses come from the configuration alone, and event text was cleaned in `render` before.

use crate::config::{SmtpSettings, TlsMode};
use crate::notify::dkim::{DkimError, Signer};
use crate::notify::egress::is_loopback;
use crate::notify::queue::Notice;
use crate::notify::receivers::Kind;
use crate::notify::render::clean;
use crate::notify::{Channel, DeliveryError};
use async_trait::async_trait;
use lettre::address::{Address, AddressError, Envelope};
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Mailbox, Message, SinglePart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Attempts that a server may refuse for good before we believe it: a misconfigured relay is often repaired within the
/// waits that so many attempts take.
const REFUSALS_MAX: u32 = 8;
/// How long a connection is kept for the next mail: the notices of one incident share it, and servers wait far longer.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Why mail cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Sender or receiver is not an address.
    #[error("mail address {address:?} is malformed")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// It would need SMTPUTF8 (RFC 6531), which we do not speak.
    #[error("mail address {0:?}: only the domain may have other characters than ASCII")]
    NotAscii(String),
    /// Nobody to send to.
    #[error("mail needs at least one receiver")]
    NoReceiver,
    /// Plain text over a network.
    #[error("mail with tls = \"none\" is only allowed to a loopback address, not to {0}")]
    Plaintext(String),
    /// User without password or the other way round.
    #[error("mail needs username and password_file together")]
    HalfLogin,
    /// The password or CA file cannot be read.
    #[error("mail file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The CA or the host name cannot be used.
    #[error("mail cannot use TLS with these settings")]
    Tls(#[source] lettre::transport::smtp::Error),
    /// It cannot be signed as configured.
    #[error(transparent)]
    Dkim(#[from] DkimError),
}

/// The account at the mail server; wiped on drop.
struct Login {
    username: String,
    password: Zeroizing<String>,
}

/// Sends notices as mail.
pub struct Mailer {
    name: String,
    host: String,
    port: u16,
    tls: Tls,
    timeout: Duration,
    login: Option<Login>,
    from: Mailbox,
    to: Vec<Mailbox>,
    dkim: Option<Signer>,
    /// Made at the first delivery: it belongs to the runtime that delivers.
    pool: OnceLock<AsyncSmtpTransport<Tokio1Executor>>,
    /// A connection may be left from the delivery before.
    delivered: AtomicBool,
}

impl Mailer {
    /// The receiver named `mail`.
    pub fn new(settings: &SmtpSettings) -> Result<Self, MailError> {
        Self::named("mail", settings)
    }

    /// Checks the settings and reads the files they name; does not connect.
    pub fn named(name: &str, settings: &SmtpSettings) -> Result<Self, MailError> {
        if settings.to.is_empty() {
            return Err(MailError::NoReceiver);
        }
        if settings.tls == TlsMode::None && !is_loopback(&settings.host) {
            return Err(MailError::Plaintext(settings.host.clone()));
        }
        let login = match (&settings.username, &settings.password_file) {
            (None, None) => None,
            (Some(username), Some(file)) => Some(Login { username: username.clone(), password: first_line(file)? }),
            _ => return Err(MailError::HalfLogin),
        };
        let from = mailbox(&settings.from)?;
        let dkim = settings.dkim.as_ref().map(Signer::read).transpose()?;
        if let Some(signer) = &dkim {
            signer.check_sender(from.email.domain())?;
        }
        Ok(Self {
            name: name.to_owned(),
            host: settings.host.clone(),
            port: settings.port,
            tls: tls(settings)?,
            timeout: settings.timeout,
            login,
            from,
            dkim,
            to: settings.to.iter().map(|address| mailbox(address)).collect::<Result<_, _>>()?,
            pool: OnceLock::new(),
            delivered: AtomicBool::new(false),
        })
    }

    fn message(&self, notice: &Notice) -> Result<Message, DeliveryError> {
        let mut message = self.unsigned(notice).map_err(|error| DeliveryError::Never(error.to_string()))?;
        if let Some(signer) = &self.dkim {
            // The time of the mail, not of the attempt: a mail that is sent again is the same, byte for byte.
            let signed = signer.sign(&mut message, since_epoch(notice).as_secs());
            signed.map_err(|_| DeliveryError::Later("the mail cannot be signed".into()))?;
        }
        Ok(message)
    }

    fn unsigned(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .date(SystemTime::UNIX_EPOCH + since_epoch(notice))
            .message_id(Some(format!("<{}>", notice.message_id)))
            .subject(notice.subject.clone());
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        // Each recipient has a delivery of its own, so that one who is refused takes it from nobody else.
        if !notice.recipient.is_empty() {
            let recipient: Address = notice.recipient.parse().map_err(|_| lettre::error::Error::NonAsciiChars)?;
            builder = builder.envelope(Envelope::new(Some(self.from.email.clone()), vec![recipient])?);
        }
        if let Some(first) = &notice.in_reply_to {
            builder = builder.in_reply_to(format!("<{first}>")).references(format!("<{first}>"));
        }
        builder.singlepart(
            SinglePart::builder()
                .header(ContentType::TEXT_PLAIN)
                .header(ContentTransferEncoding::Base64)
                .body(notice.body.clone()),
        )
    }

    fn transport(&self) -> &AsyncSmtpTransport<Tokio1Executor> {
        self.pool.get_or_init(|| {
            let pool = PoolConfig::new().max_size(1).idle_timeout(POOL_IDLE);
            let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.host.as_str())
                .port(self.port)
                .tls(self.tls.clone())
                .pool_config(pool)
                .timeout(Some(self.timeout));
            if let Some(login) = &self.login {
                builder = builder.credentials(Credentials::new(login.username.clone(), login.password.to_string()));
            }
            builder.build()
        })
    }

    /// Sends once, or twice when a connection of before turns out to be gone: a server may close it between two mails
    /// (lettre issue 743). If it broke off at the end of the mail, both may arrive, under one Message-ID.
    async fn send(&self, message: Message) -> Result<(), lettre::transport::smtp::Error> {
        let reused = self.delivered.swap(false, Ordering::Relaxed);
        let sent = match self.transport().send(message.clone()).await {
            Err(error) if reused && error.status().is_none() && !error.is_client() => {
                self.transport().send(message).await
            }
            other => other,
        };
        sent.map(|_response| self.delivered.store(true, Ordering::Relaxed))
    }
}

impl Drop for Mailer {
    fn drop(&mut self) {
        // The pool says goodbye on a task of its own, for which a process that ends has no runtime any more.
        if tokio::runtime::Handle::try_current().is_err()
            && let Some(pool) = self.pool.take()
        {
            std::mem::forget(pool);
        }
    }
}

#[async_trait]
impl Channel for Mailer {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Smtp
    }

    fn recipients(&self) -> Vec<String> {
        self.to.iter().map(|mailbox| mailbox.email.to_string()).collect()
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let message = self.message(notice)?;
        // lettre's timeout bounds each step; a server that drips replies must not hold the queue beyond all steps.
        match tokio::time::timeout(self.timeout * 6, self.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_permanent() && notice.attempts + 1 >= REFUSALS_MAX => {
                Err(DeliveryError::Never(told(&error)))
            }
            Ok(Err(error)) => Err(DeliveryError::Later(told(&error))),
            Err(_elapsed) => Err(DeliveryError::Later("the mail server is too slow".into())),
        }
    }
}

/// The error with its causes; a server's words are cleaned, they end in our lists and pages.
fn told(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    clean(&text, 300)
}

fn tls(settings: &SmtpSettings) -> Result<Tls, MailError> {
    if settings.tls == TlsMode::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let pem = std::fs::read(path).map_err(|source| MailError::File { path: path.clone(), source })?;
        parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(MailError::Tls)?);
    }
    let parameters = parameters.build().map_err(MailError::Tls)?;
    Ok(if settings.tls == TlsMode::Tls { Tls::Wrapper(parameters) } else { Tls::Required(parameters) })
}

fn since_epoch(notice: &Notice) -> Duration {
    Duration::from_micros(u64::try_from(notice.created_us).unwrap_or(0))
}

/// The domain as servers take it, whatever their age: an internationalised one in its ASCII form (RFC 5890).
fn mailbox(address: &str) -> Result<Mailbox, MailError> {
    let malformed = |source| MailError::Address { address: address.to_owned(), source };
    // Alone, an address may have a quoted local part, of which lettre's mailboxes lose the quotes.
    let alone = address.parse::<Address>().map(|email| Mailbox::new(None, email));
    let mut mailbox: Mailbox = alone.or_else(|_| address.parse()).map_err(malformed)?;
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !user.is_ascii() {
        return Err(MailError::NotAscii(address.to_owned()));
    }
    if !domain.is_ascii() {
        let ascii = idna::domain_to_ascii(domain).map_err(|_| malformed(AddressError::InvalidDomain))?;
        mailbox.email = Address::new(user, ascii).map_err(malformed)?;
    }
    Ok(mailbox)
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, MailError> {
    let text = std::fs::read_to_string(path).map_err(|source| MailError::File { path: path.to_owned(), source })?;
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
