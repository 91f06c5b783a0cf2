//! A new data folder: keys, credentials, an empty store and the log's name. Nothing that is there is ever replaced.
//!
//! The `lock` file comes last: a folder without it was never finished, and no node starts in it.

use crate::access::{FixedError, seal_break_glass};
use crate::auth::credentials::{self, Credentials, CredentialsError};
use crate::auth::identities;
use crate::crypto::{RootKey, RootKeyError, SealKey};
use crate::key::{AccountId, Region};
use crate::signer::{LocalSigner, SignError};
use crate::store::{self, StoreError};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The user that `credentials` belongs to.
pub const ADMINISTRATOR: &str = "administrator";

/// What a new node is called and whom it serves.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Twelve digits: the first account.
    pub account: String,
    /// The only region the node answers for.
    pub region: String,
    /// Name of the cluster, for the log's origin.
    pub cluster: String,
    /// Name of the node, for the log's origin.
    pub node: String,
}

/// Why a folder was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// An option has a form that ARNs or origins cannot hold.
    #[error("{option} must be {form}")]
    Option {
        /// Which.
        option: &'static str,
        /// What it must be.
        form: &'static str,
    },
    /// Something is there.
    #[error("{path} is not empty")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root key.
    #[error("root key cannot be made")]
    RootKey(#[from] RootKeyError),
    /// Credentials.
    #[error("credentials cannot be made")]
    Credentials(#[from] CredentialsError),
    /// The break-glass credentials.
    #[error("break-glass credentials cannot be sealed")]
    Sealed(#[from] FixedError),
    /// The checkpoint signer.
    #[error("checkpoint key cannot be made")]
    Signer(#[from] SignError),
    /// The store.
    #[error("store cannot be made")]
    Store(#[from] StoreError),
    /// The system's random source.
    #[error("system gave no random bytes")]
    Random,
}

/// Whether a folder holds a finished node.
pub fn is_initialised(dir: &Path) -> bool {
    dir.join("lock").exists()
}

/// Makes a node in an empty or absent folder; gives the log's origin.
pub fn init_folder(dir: &Path, options: &InitOptions) -> Result<String, InitError> {
    init_sealed_folder(dir, options, None)
}

/// As [`init_folder`], the root key sealed if there is something to seal it with.
pub fn init_sealed_folder(dir: &Path, options: &InitOptions, seal_key: Option<&SealKey>) -> Result<String, InitError> {
    let account = options.check()?;
    let io = |step, path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { step, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create", dir))?;
    for entry in std::fs::read_dir(dir).map_err(io("read", dir))? {
        let entry = entry.map_err(io("read", dir))?;
        if entry.file_name() != "keytrail.toml" {
            return Err(InitError::NotEmpty { path: dir.to_owned() });
        }
    }
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| InitError::Random)?;
    let origin = format!("keytrail/{}/{}-{}", options.cluster, options.node, hex::encode(random));
    let root = RootKey::create_sealed(&dir.join("root.key"), seal_key)?;
    LocalSigner::create(&dir.join("checkpoints"), &origin)?;
    let break_glass = write_credentials(dir, account)?;
    let mut meta: Vec<(&str, Vec<u8>)> = seal_break_glass(&break_glass, &root, account, &options.region)?;
    let root_key_id = root.id();
    let seal = RootKey::seal_of(&dir.join("root.key"))?.name();
    let texts = [
        ("account", account.as_str()),
        ("region", options.region.as_str()),
        ("cluster", options.cluster.as_str()),
        ("node", options.node.as_str()),
        ("origin", origin.as_str()),
        ("root_key_id", root_key_id.as_str()),
        ("root_key_seal", seal.as_str()),
    ];
    create_store(&dir.join("kms.db"), &texts, &mut meta)?;
    let lock = dir.join("lock");
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock).map_err(io("create", &lock))?;
    made.sync_all().map_err(io("sync", &lock))?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(io("sync", dir))?;
    Ok(origin)
}

impl InitOptions {
    fn check(&self) -> Result<AccountId, InitError> {
        let wrong = |option, form| InitError::Option { option, form };
        let account = AccountId::parse(&self.account).ok_or_else(|| wrong("account", "twelve digits"))?;
        // Cluster and node have the form of regions.
        let label = |text: &str| Region::parse(text).is_some();
        for (option, text) in [("region", &self.region), ("cluster", &self.cluster), ("node", &self.node)] {
            if !label(text) {
                return Err(wrong(option, "1 to 32 lower-case letters, digits and hyphens"));
            }
        }
        Ok(account)
    }
}

/// Writes the files that callers take their access keys from; gives the break-glass credentials, to be sealed.
fn write_credentials(dir: &Path, account: AccountId) -> Result<Credentials, InitError> {
    let administrator = Credentials::generate()?;
    let (trail, responder) = (Credentials::generate()?, Credentials::generate()?);
    let break_glass = Credentials::generate()?;
    let path = dir.join("identities.toml");
    identities::write(&path, &identities::starter(account.as_str(), ADMINISTRATOR, &administrator))
        .map_err(|source| InitError::Io { step: "write", path, source })?;
    let head = "The administrator of this KMS, for AWS_SHARED_CREDENTIALS_FILE.";
    credentials::write_file(&dir.join("credentials"), head, &[("default", &administrator)])?;
    let head = "Keytrail's own processes. Each may make a fixed list of calls only.";
    credentials::write_file(&dir.join("service-credentials"), head, &[("trail", &trail), ("responder", &responder)])?;
    let head = "Emergency access: everything in its account, never in quarantine, and every use raises an alarm.\n\
                Move this file to a safe place away from this machine.";
    credentials::write_file(&dir.join("break-glass"), head, &[("break-glass", &break_glass)])?;
    Ok(break_glass)
}

fn create_store(path: &Path, texts: &[(&str, &str)], blobs: &mut Vec<(&str, Vec<u8>)>) -> Result<(), InitError> {
    // Made private before SQLite sees it; its WAL files take over the mode.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|source| InitError::Io { step: "create", path: path.to_owned(), source })?;
    let mut connection = store::open(path, true)?;
    let transaction = connection.transaction().map_err(StoreError::from)?;
    for (name, text) in texts {
        transaction.execute("INSERT INTO meta VALUES (?1, ?2)", (name, text)).map_err(StoreError::from)?;
    }
    for (name, blob) in blobs.drain(..) {
        transaction.execute("INSERT INTO meta VALUES (?1, ?2)", (name, blob)).map_err(StoreError::from)?;
    }
    transaction.commit().map_err(StoreError::from)?;
    Ok(())
}
