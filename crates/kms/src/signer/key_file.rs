//! Files of private keys, mode 0600: a title, the key's name, base64 of its PKCS#8 document, each on its line.

use super::{SignError, failed, replace};
use crate::chain::checkpoint::Pkcs8;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use zeroize::Zeroizing;

/// One kind of key file.
pub(crate) struct KeyFile {
    /// Its name in the folder.
    pub(crate) name: &'static str,
    /// Its first line.
    pub(crate) title: &'static str,
}

impl KeyFile {
    /// Writes a new key into a folder, which is made if need be. Never replaces one.
    pub(crate) fn create(&self, dir: &Path, key_name: &str, pkcs8: &Pkcs8) -> Result<(), SignError> {
        let path = dir.join(self.name);
        if path.exists() {
            return Err(failed("replace", &path)(io::ErrorKind::AlreadyExists.into()));
        }
        self.write(dir, key_name, pkcs8)
    }

    /// Writes a key, over one that is there.
    pub(crate) fn write(&self, dir: &Path, key_name: &str, pkcs8: &Pkcs8) -> Result<(), SignError> {
        make_folder(dir)?;
        let encoded = Zeroizing::new(BASE64.encode(pkcs8.expose()));
        let text = Zeroizing::new(format!("{}\n{key_name}\n{}\n", self.title, *encoded));
        replace(dir, self.name, text.as_bytes(), 0o600)
    }

    /// The key's name and its bytes.
    pub(crate) fn read(&self, dir: &Path) -> Result<(String, Pkcs8), SignError> {
        let path = dir.join(self.name);
        let damaged = |found| SignError::Damaged { path: path.clone(), found };
        let text = Zeroizing::new(std::fs::read_to_string(&path).map_err(failed("read", &path))?);
        let mut lines = text.lines();
        let (Some(title), Some(name), Some(encoded), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(damaged("not the three lines of a key file"));
        };
        if title != self.title {
            return Err(damaged("not a key of this kind"));
        }
        let pkcs8 = Zeroizing::new(BASE64.decode(encoded).map_err(|_| damaged("key is not base64"))?);
        Ok((name.to_owned(), Pkcs8::new(pkcs8)))
    }
}

/// A folder that only its owner may look into.
pub(crate) fn make_folder(dir: &Path) -> Result<(), SignError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}
