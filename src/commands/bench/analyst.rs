//! An analyst's join without end over HTTP, asked again whenever its limit stops it.

use super::add_to;
use anyhow::{Context, ensure};
use keytrail_trail::serve::users::add_user;
use reqwest::{Certificate, Client};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NAME: &str = "alice";
const PASSWORD: &str = "a password of the bench";
/// Three times the log against itself: ended by its limit alone.
const JOIN: &str = "SELECT count(*) FROM events a, events b, events c WHERE a.seq + b.seq + c.seq = -1";
/// The limit of each query.
const TIMEOUT_SECONDS: u64 = 5;
/// Longest wait for an answer, which comes when the limit is reached.
const PATIENCE: Duration = Duration::from_secs(60);

/// Her client.
pub(super) struct Analyst {
    http: Client,
    url: String,
}

impl Analyst {
    /// Gives a folder that is not served yet the door, a certificate for it, and her.
    pub(super) fn prepare(dir: &Path) -> anyhow::Result<()> {
        let (cert, key) = (dir.join("sql-cert.pem"), dir.join("sql-key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .context("run openssl")?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let tls = format!("{{ cert_file = {cert:?}, key_file = {key:?} }}");
        add_to(&dir.join("keytrail.toml"), &format!("\n[sql]\nhttp = \"127.0.0.1:0\"\ntls = {tls}\n"))?;
        add_user(dir, NAME, PASSWORD, None).context("add a SQL user")?;
        let file = dir.join("sql-users.toml");
        let text = std::fs::read_to_string(&file).context("read sql-users.toml")?;
        let limited = text.replace("timeout = \"1m\"", &format!("timeout = \"{TIMEOUT_SECONDS}s\""));
        ensure!(limited != text, "the role's timeout is not where it was");
        std::fs::write(&file, limited).context("write sql-users.toml")
    }

    /// Of the service that printed this line when it was ready.
    pub(super) fn new(dir: &Path, ready: &str) -> anyhow::Result<Self> {
        let address = ready.split(' ').find_map(|field| field.strip_prefix("http="));
        let pem = std::fs::read(dir.join("sql-cert.pem")).context("read the certificate")?;
        let certificate = Certificate::from_pem(&pem).context("read the certificate")?;
        let http = Client::builder().add_root_certificate(certificate).timeout(PATIENCE).no_proxy().build();
        Ok(Self {
            http: http.context("make an HTTP client")?,
            url: format!("https://{}/v1/sql", address.context("the service has no HTTP door")?),
        })
    }

    /// Asks until dropped; says when an answer is another one than that its limit was reached (SQLSTATE 57014).
    pub(super) async fn ask(&self) -> anyhow::Result<std::convert::Infallible> {
        loop {
            let asked = self.http.post(&self.url).basic_auth(NAME, Some(PASSWORD)).body(JOIN);
            let answer = asked.header("content-type", "text/plain").send().await.context("ask")?;
            let text = answer.text().await.context("read the answer")?;
            ensure!(text.contains("57014"), "the join was not stopped by its limit: {text}");
        }
    }
}
