//! People who deal with incidents over HTTP: `incident-users.toml` of the data folder, a name and a token each.
//!
//! A token is 256 random bits and shown once; the file holds its SHA-256 only, so that whoever reads it can call nobody's
//! name. Guessing one is hopeless, hence no slow hash; comparing takes the same time for every name. The file is looked
//! at for each request: who is taken out is out. Whoever can write it can be everybody.

use crate::file::read_private;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keytrail_kms::chain::leaf::sha256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the file in the data folder.
pub const USERS_FILE: &str = "incident-users.toml";
/// So that a token that was lost can be found by its looks.
const TOKEN_PREFIX: &str = "kti_";
const FILE_BYTES_MAX: usize = 256 * 1024;
const NAME_BYTES_MAX: usize = 64;
const MAIL_BYTES_MAX: usize = 254;
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 128;

/// Why there are no users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Not readable or not writable.
    #[error("{path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML of the right shape.
    #[error("{path} is malformed")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The name or address is of no use.
    #[error("user {name}: {reason}")]
    User {
        /// Whose.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    users: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mail: Option<String>,
}

/// The name that belongs to a token.
pub fn authenticate(data_dir: &Path, token: &str) -> Result<Option<String>, UsersError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Ok(None);
    }
    let presented = sha256(&[token.as_bytes()]);
    let mut found = None;
    for (name, entry) in read(data_dir)?.users {
        let Ok(held) = hex::decode(&entry.token_sha256) else { continue };
        if verify_slices_are_equal(&held, &presented).is_ok() {
            found = Some(name);
        }
    }
    Ok(found)
}

/// Adds a person and gives the token, which nobody can show again.
pub fn add_user(data_dir: &Path, name: &str, mail: Option<&str>) -> Result<Zeroizing<String>, UsersError> {
    let wrong = |reason| UsersError::User { name: crate::notify::render::clean(name, 64), reason };
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(sane) {
        return Err(wrong("a name has 1 to 64 letters, digits, dots, hyphens, underscores or @"));
    }
    let address = |mail: &str| {
        mail.len() <= MAIL_BYTES_MAX && mail.bytes().all(|byte| byte.is_ascii_graphic()) && mail.contains('@')
    };
    if mail.is_some_and(|mail| !address(mail)) {
        return Err(wrong("the mail address is none"));
    }
    let mut file = read(data_dir)?;
    if file.users.contains_key(name) {
        return Err(wrong("there is one of this name: remove it first"));
    }
    let mut secret = Zeroizing::new([0; 32]);
    let no_randomness = |_| io(data_dir)(std::io::Error::other("no randomness"));
    aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(no_randomness)?;
    let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret.as_slice())));
    let entry = Entry { token_sha256: hex::encode(sha256(&[token.as_bytes()])), mail: mail.map(str::to_owned) };
    file.users.insert(name.to_owned(), entry);
    write(data_dir, &file)?;
    Ok(token)
}

/// Takes a person out; false when there is none.
pub fn remove_user(data_dir: &Path, name: &str) -> Result<bool, UsersError> {
    let mut file = read(data_dir)?;
    let there = file.users.remove(name).is_some();
    if there {
        write(data_dir, &file)?;
    }
    Ok(there)
}

/// Names with their mail addresses.
pub fn list_users(data_dir: &Path) -> Result<Vec<(String, Option<String>)>, UsersError> {
    Ok(read(data_dir)?.users.into_iter().map(|(name, entry)| (name, entry.mail)).collect())
}

fn io(data_dir: &Path) -> impl Fn(std::io::Error) -> UsersError {
    let path = data_dir.join(USERS_FILE);
    move |source| UsersError::Io { path: path.clone(), source }
}

/// A file that is not there has nobody in it.
fn read(data_dir: &Path) -> Result<UsersFile, UsersError> {
    let (path, io) = (data_dir.join(USERS_FILE), io(data_dir));
    let bytes = match read_private(&path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(UsersFile::default()),
        read => read.map_err(&io)?,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| io(std::io::Error::other("it is not UTF-8")))?;
    toml::from_str(text).map_err(|source| UsersError::Syntax { path, source: Box::new(source) })
}

/// Whole or not at all.
fn write(data_dir: &Path, users: &UsersFile) -> Result<(), UsersError> {
    let (path, io) = (data_dir.join(USERS_FILE), io(data_dir));
    let text = toml::to_string(users).map_err(|error| io(std::io::Error::other(error)))?;
    let half = path.with_extension(format!("toml.{}", std::process::id()));
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&half).map_err(&io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(&io)?;
    std::fs::rename(&half, &path).map_err(&io)
}
