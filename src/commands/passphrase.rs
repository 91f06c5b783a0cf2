//! Where a passphrase comes from: a file, or the terminal without echo. Never a flag or the environment.

use anyhow::{Context, bail};
use keytrail_kms::crypto::{Passphrase, RootKey, Seal, SealKey};
use std::io::IsTerminal;
use std::path::Path;
use zeroize::Zeroizing;

/// What opens this folder's root key; none when its file asks for nothing.
pub(crate) fn of_root_key(dir: &Path, file: Option<&Path>) -> anyhow::Result<Option<SealKey>> {
    match RootKey::seal_of(&dir.join("root.key")).context("look at the root key")? {
        Seal::File => Ok(None),
        Seal::Passphrase { .. } => match file {
            Some(file) => Ok(Some(SealKey::Passphrase(Passphrase::read(file)?))),
            None => ask("Passphrase of the root key: ").map(|words| Some(SealKey::Passphrase(words))),
        },
    }
}

/// A passphrase to seal with; a typed one is asked for twice, as a slip of the hand would lose every key.
pub(crate) fn new(file: Option<&Path>) -> anyhow::Result<SealKey> {
    let Some(file) = file else {
        let (first, second) = (typed("New passphrase: ")?, typed("The same again: ")?);
        if first != second {
            bail!("the two passphrases differ");
        }
        return Ok(SealKey::Passphrase(Passphrase::new(first)?));
    };
    Ok(SealKey::Passphrase(Passphrase::read(file)?))
}

fn ask(prompt: &str) -> anyhow::Result<Passphrase> {
    Ok(Passphrase::new(typed(prompt)?)?)
}

fn typed(prompt: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if !std::io::stdin().is_terminal() {
        bail!("the root key is sealed by a passphrase and there is no terminal: give --passphrase-file");
    }
    let text = rpassword::prompt_password(prompt).context("read the passphrase")?;
    Ok(Zeroizing::new(text.into_bytes()))
}
