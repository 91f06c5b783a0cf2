//! What seals the root key and opens it: a passphrase from a file or the terminal without echo, or a key inside a token that
//! `[root_key]` of keytrail.toml names. Never a secret from a flag or the environment.

use crate::cli::{SealedBy, TokenArgs};
use crate::config::{Config, RootKeySection};
use anyhow::{Context, bail};
use keytrail_kms::crypto::{Passphrase, RootKey, Seal, SealKey, TokenSeal};
use keytrail_kms::hsm::{Pin, TokenAddress};
use std::io::IsTerminal;
use std::path::Path;
use zeroize::Zeroizing;

const LABELS: &str = "a token's label has 1 to 32 bytes, a key's 1 to 64";

/// What opens this folder's root key; none when its file asks for nothing.
pub(crate) fn of_root_key(dir: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<Option<SealKey>> {
    match RootKey::seal_of(&dir.join("root.key")).context("look at the root key")? {
        Seal::File => Ok(None),
        Seal::Passphrase { .. } => match passphrase_file {
            Some(file) => Ok(Some(SealKey::Passphrase(Passphrase::read(file)?))),
            None => ask("Passphrase of the root key: ").map(|words| Some(SealKey::Passphrase(words))),
        },
        Seal::Token { .. } => of_token(dir, &section(dir)?, false).map(Some),
    }
}

/// What seals a root key anew.
pub(crate) fn new(
    dir: &Path,
    seal: SealedBy,
    passphrase_file: Option<&Path>,
    create_token_key: bool,
) -> anyhow::Result<Option<SealKey>> {
    match seal {
        SealedBy::File => Ok(None),
        SealedBy::Passphrase => new_passphrase(passphrase_file).map(|words| Some(SealKey::Passphrase(words))),
        SealedBy::Pkcs11 => of_token(dir, &section(dir)?, create_token_key).map(Some),
    }
}

/// What seals the root key of a folder that is not there yet, and the section that names its token.
pub(crate) fn for_init(
    seal: SealedBy,
    passphrase_file: Option<&Path>,
    token: &TokenArgs,
) -> anyhow::Result<(Option<SealKey>, Option<RootKeySection>)> {
    match seal {
        SealedBy::File => Ok((None, None)),
        SealedBy::Passphrase => Ok((Some(SealKey::Passphrase(new_passphrase(passphrase_file)?)), None)),
        SealedBy::Pkcs11 => {
            let section = token
                .section()
                .context("--seal pkcs11 needs --pkcs11-module, --pkcs11-token, --pkcs11-key and --pin-file")?;
            let seal = TokenSeal::new(
                address(&section),
                section.key.clone(),
                Pin::read(&section.pin_file)?,
                token.create_token_key,
            );
            Ok((Some(SealKey::Token(seal.context(LABELS)?)), Some(section)))
        }
    }
}

fn of_token(dir: &Path, section: &RootKeySection, create: bool) -> anyhow::Result<SealKey> {
    let RootKeySection { key, pin_file, .. } = section;
    let address = address(section);
    let seal = TokenSeal::with_pin_file(address, key.clone(), pin_file, dir, create)?;
    Ok(SealKey::Token(seal.context(LABELS)?))
}

fn address(section: &RootKeySection) -> TokenAddress {
    TokenAddress { module: section.module.clone(), token: section.token.clone() }
}

fn section(dir: &Path) -> anyhow::Result<RootKeySection> {
    let config = Config::read(&dir.join("keytrail.toml"))?;
    config.root_key.context("keytrail.toml has no [root_key]: it names the token's module, token, key and pin_file")
}

/// A passphrase to seal with; a typed one is asked for twice, as a slip of the hand would lose every key.
fn new_passphrase(file: Option<&Path>) -> anyhow::Result<Passphrase> {
    let Some(file) = file else {
        let (first, second) = (typed("New passphrase: ")?, typed("The same again: ")?);
        if first != second {
            bail!("the two passphrases differ");
        }
        return Ok(Passphrase::new(first)?);
    };
    Ok(Passphrase::read(file)?)
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
