//! Who may run SQL: `sql-users.toml` of the data folder, with roles that say how much and over which tables.
//!
//! The file is looked at before each login and each query, so a user that is taken out is out. It must be readable for its
//! owner only: whoever writes it is every analyst, whoever reads it can guess passwords offline.

use super::verifier::{Verifier, VerifierError};
use crate::query::Limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Name of the file in the data folder.
pub const USERS_FILE: &str = "sql-users.toml";
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a user; PostgreSQL's is 63.
const NAME_BYTES_MAX: usize = 63;
/// Role of users that name none.
const DEFAULT_ROLE: &str = "analyst";
/// Role of whoever comes by CloudTrail's own operations; without it nobody does.
pub const CLOUDTRAIL_ROLE: &str = "cloudtrail";
/// Longest deadline that a role may give.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Most memory that a role may give one query.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Why there are no users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Missing or not readable.
    #[error("{path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Someone else on the machine could read or write it.
    #[error("{0} is open to others than its owner: chmod 600")]
    Open(PathBuf),
    /// Far longer than any list of users.
    #[error("{0} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    /// Not TOML, or with fields that there are not.
    #[error("{path} cannot be read")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// Cannot be written as TOML.
    #[error("users cannot be written")]
    Write(#[source] toml::ser::Error),
    /// Something in it makes no sense.
    #[error("user {name}: {reason}")]
    User {
        /// Whose entry.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A verifier that is none.
    #[error("user {name}")]
    Verifier {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: VerifierError,
    },
    /// Its bounds make no sense.
    #[error("role {name}: {reason}")]
    Role {
        /// Which.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct UsersFile {
    roles: BTreeMap<String, Role>,
    users: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: String,
    verifier: String,
}

/// What the users of a role may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Role {
    /// From the start of a query to its last row.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Memory for sorts, joins and groups of one query.
    pub memory_bytes_max: u64,
    /// Rows of one answer; more is an error.
    pub rows_max: u64,
    /// Bytes of one answer, as columns in memory; more is an error.
    pub answer_bytes_max: u64,
    /// Open at once by one user, over all doors.
    pub connections_max: u32,
    /// The tables that there are for the role; all of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<BTreeSet<String>>,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            memory_bytes_max: 256 << 20,
            rows_max: 1_000_000,
            answer_bytes_max: 1 << 30,
            connections_max: 20,
            tables: None,
        }
    }
}

impl Role {
    /// The limits of one query.
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes: usize::try_from(self.memory_bytes_max).unwrap_or(usize::MAX),
            deadline: self.timeout,
            rows_max: self.rows_max,
            ..Limits::default()
        }
    }

    fn check(&self, name: &str) -> Result<(), UsersError> {
        let wrong = |reason| Err(UsersError::Role { name: name.to_owned(), reason });
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            return wrong("timeout must be above 0 s and at most 1 h");
        }
        if self.memory_bytes_max < 1 << 20 || self.memory_bytes_max > MEMORY_BYTES_MAX {
            return wrong("memory_bytes_max must be between 1 MiB and 1 GiB");
        }
        if self.connections_max == 0 || self.rows_max == 0 || self.answer_bytes_max == 0 {
            return wrong("a bound of 0 lets nobody in");
        }
        Ok(())
    }
}

/// Someone who may run SQL.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// As it stands in records of queries.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// None for a principal of the key service, whose signature and policies are judged there at each call.
    pub(super) verifier: Option<Verifier>,
}

/// The users as the file has them now.
pub struct Users {
    path: PathBuf,
    /// Of verifiers for names that there are not.
    secret: [u8; 32],
    read: Mutex<(Option<Stamp>, Arc<Known>)>,
}

/// What the file says.
#[derive(Default)]
struct Known {
    users: BTreeMap<String, Arc<User>>,
    cloudtrail: Option<Role>,
}

/// Inode, time of change, length and mode.
type Stamp = (u64, i64, i64, u64, u32);

impl Users {
    /// Reads `sql-users.toml` of a data folder; a file of no use is an error here, and later keeps everybody out.
    pub fn open(dir: &Path) -> Result<Self, UsersError> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| UsersError::Io {
            path: dir.join(USERS_FILE),
            source: std::io::Error::other("no randomness"),
        })?;
        let users = Self { path: dir.join(USERS_FILE), secret, read: Mutex::default() };
        users.now()?;
        Ok(users)
    }

    /// The user of this name, as of now.
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.known()?.users.get(name).cloned()
    }

    /// A principal of the key service as a user, where the file has a role for those.
    pub fn principal(&self, arn: &str) -> Option<Arc<User>> {
        let role = self.known()?.cloudtrail.clone()?;
        Some(Arc::new(User { name: arn.to_owned(), role, verifier: None }))
    }

    /// The same user as it is now; none that was taken out or has another password, which is another user.
    pub(super) fn again(&self, user: &User) -> Option<Arc<User>> {
        let now = if user.verifier.is_some() { self.user(&user.name) } else { self.principal(&user.name) };
        now.filter(|now| now.verifier == user.verifier)
    }

    fn known(&self) -> Option<Arc<Known>> {
        let known = self.now();
        let told = |error: &UsersError| {
            tracing::error!(error = crate::serve::describe(error), "nobody can log in");
        };
        known.inspect_err(told).ok()
    }

    /// The user's verifier, or one that nothing matches and that looks the same.
    pub(super) fn verifier(&self, name: &str) -> Verifier {
        let known = self.user(name).and_then(|user| user.verifier.clone());
        known.unwrap_or_else(|| Verifier::of_nobody(&self.secret, name))
    }

    /// The user with this name and password. A name that does not exist takes as long.
    pub async fn authenticate(&self, name: &str, password: &str) -> Option<Arc<User>> {
        let (verifier, password) = (self.verifier(name), zeroize::Zeroizing::new(password.to_owned()));
        let right = tokio::task::spawn_blocking(move || verifier.is(&password)).await.unwrap_or(false);
        let user = self.user(name);
        user.filter(|_| right)
    }

    fn now(&self) -> Result<Arc<Known>, UsersError> {
        let io = |source| UsersError::Io { path: self.path.clone(), source };
        let meta = std::fs::metadata(&self.path).map_err(io)?;
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len(), meta.mode());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != Some(stamp) {
            *read = (None, Arc::default());
            *read = (Some(stamp), Arc::new(checked(read_file(&self.path)?)?));
        }
        Ok(Arc::clone(&read.1))
    }
}

/// Adds a user, or gives it another password and role. `role`: as it stands in the file, `analyst` without one.
pub fn add_user(dir: &Path, name: &str, password: &str, role: Option<&str>) -> Result<(), UsersError> {
    let path = dir.join(USERS_FILE);
    let mut file = if path.exists() { read_file(&path)? } else { UsersFile::default() };
    let verifier = Verifier::new(password);
    let verifier = verifier.map_err(|source| UsersError::Verifier { name: name.to_owned(), source })?.to_string();
    let kept = file.users.get(name).map(|entry| entry.role.clone());
    let role = role.map(str::to_owned).or(kept).unwrap_or_else(|| DEFAULT_ROLE.to_owned());
    file.roles.entry(DEFAULT_ROLE.to_owned()).or_default();
    file.users.insert(name.to_owned(), Entry { role, verifier });
    replace(&path, file)
}

/// Takes a user out; false if there was none of that name.
pub fn remove_user(dir: &Path, name: &str) -> Result<bool, UsersError> {
    let path = dir.join(USERS_FILE);
    let mut file = read_file(&path)?;
    if file.users.remove(name).is_none() {
        return Ok(false);
    }
    replace(&path, file).map(|()| true)
}

/// Names and roles in the file.
pub fn list_users(dir: &Path) -> Result<Vec<(String, String)>, UsersError> {
    let file = read_file(&dir.join(USERS_FILE))?;
    Ok(file.users.into_iter().map(|(name, entry)| (name, entry.role)).collect())
}

fn read_file(path: &Path) -> Result<UsersFile, UsersError> {
    let io = |source| UsersError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(UsersError::Open(path.to_owned()));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(UsersError::TooLong(path.to_owned()));
    }
    toml::from_str(&text).map_err(|source| UsersError::Syntax { path: path.to_owned(), source })
}

fn checked(file: UsersFile) -> Result<Known, UsersError> {
    file.roles.iter().try_for_each(|(name, role)| role.check(name))?;
    let mut users = BTreeMap::new();
    for (name, entry) in file.users {
        let wrong = |reason| UsersError::User { name: name.clone(), reason };
        let plain = |char: char| char.is_ascii_alphanumeric() || "._@-".contains(char);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(wrong("a name has 1 to 63 of the characters a-z, A-Z, 0-9, . _ @ -"));
        }
        let role = file.roles.get(&entry.role).ok_or_else(|| wrong("its role is not in the file"))?;
        let verifier = entry.verifier.parse();
        let verifier = verifier.map_err(|source| UsersError::Verifier { name: name.clone(), source })?;
        users.insert(name.clone(), Arc::new(User { name, role: role.clone(), verifier: Some(verifier) }));
    }
    Ok(Known { users, cloudtrail: file.roles.get(CLOUDTRAIL_ROLE).cloned() })
}

/// Puts the whole file in its place at once, as nobody else may read it.
fn replace(path: &Path, file: UsersFile) -> Result<(), UsersError> {
    let io = |source| UsersError::Io { path: path.to_owned(), source };
    let text = format!(
        "# Who may run SQL through PostgreSQL's protocol and HTTP (docs/sql-servers.md); keytrail sql-user.\n\n{}",
        toml::to_string(&file).map_err(UsersError::Write)?
    );
    checked(file)?;
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(io)?;
    out.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(io)?;
    std::fs::rename(&fresh, path).map_err(io)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PASSWORD: &str = "correct horse battery";

    #[tokio::test]
    async fn users_come_and_go_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Users::open(dir.path()), Err(UsersError::Io { .. })));
        add_user(dir.path(), "alice", PASSWORD, None).unwrap();
        let path = dir.path().join(USERS_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&path).unwrap().contains(PASSWORD));
        let users = Users::open(dir.path()).unwrap();
        assert_eq!(users.authenticate("alice", PASSWORD).await.unwrap().role, Role::default());
        assert!(users.authenticate("alice", "something else").await.is_none());
        assert!(users.authenticate("bob", PASSWORD).await.is_none());
        add_user(dir.path(), "bob", PASSWORD, Some("analyst")).unwrap();
        assert!(users.authenticate("bob", PASSWORD).await.is_some());
        assert!(remove_user(dir.path(), "bob").unwrap() && !remove_user(dir.path(), "bob").unwrap());
        assert!(users.authenticate("bob", PASSWORD).await.is_none());
        assert_eq!(list_users(dir.path()).unwrap(), [("alice".to_owned(), "analyst".to_owned())]);
    }

    #[test]
    fn a_file_that_makes_no_sense_keeps_everybody_out() {
        let dir = tempfile::tempdir().unwrap();
        add_user(dir.path(), "alice", PASSWORD, None).unwrap();
        let users = Users::open(dir.path()).unwrap();
        assert!(users.user("alice").is_some());
        let path = dir.path().join(USERS_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("analyst\"", "chief\""),
            ("timeout = \"1m\"", "timeout = \"2h\""),
            ("[roles", "what = 1\n[roles"),
            ("SCRAM-SHA-256", "MD5"),
            ("[users.alice]", "[users.\"a b\"]"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(text, changed, "{from}");
            std::fs::write(&path, changed).unwrap();
            assert!(users.now().is_err() && users.user("alice").is_none(), "{to}");
            assert!(users.user("alice").is_none(), "asked twice: {to}");
        }
        std::fs::write(&path, &text).unwrap();
        assert!(users.user("alice").is_some());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(users.now(), Err(UsersError::Open(_))));
        assert!(add_user(dir.path(), "bob", PASSWORD, None).is_err(), "not made worse");
    }
}
