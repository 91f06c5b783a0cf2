//! `keytrail init`: a new data folder, complete with rules and configuration. Nothing that is there is replaced.

use super::{say, seal_key};
use crate::cli::{InitArgs, NodeArgs, SealedBy};
use crate::config::{Config, KmsSection, NodeSection, RootKeySection};
use crate::shipped;
use anyhow::{Context, bail};
use keytrail_kms::crypto::SealKey;
use keytrail_kms::init::{InitOptions, init_sealed_folder, is_initialised};
use std::net::SocketAddr;
use std::path::Path;

const REGION: &str = "us-east-1";
/// Cluster and node where nobody names them.
const NAMES: (&str, &str) = ("local", "node");

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let InitArgs { node: args, seal, token, cluster, node_name } = args;
    let dir = &args.data.data;
    if !is_needed(args)? {
        bail!("{} is initialised already", dir.display());
    }
    if token.section().is_some() && *seal != SealedBy::Pkcs11 {
        bail!("a token is given, and --seal pkcs11 is not");
    }
    let (seal_key, section) = seal_key::for_init(*seal, args.passphrase_file.as_deref(), token)?;
    if section.is_some() && configuration(args).exists() {
        bail!("{} exists: the token goes into a new configuration", configuration(args).display());
    }
    create_sealed(args, (cluster, node_name), (seal_key.as_ref(), section.as_ref()))?;
    let dir = dir.display();
    say(&format!("initialised {dir}"));
    say(&format!("administrator  {dir}/credentials (AWS_SHARED_CREDENTIALS_FILE)"));
    say(&format!("break-glass    {dir}/break-glass: move it to a safe place now"));
    say(&format!("people         {dir}/identities.toml"));
    say(&format!("rules          {dir}/rules"));
    Ok(())
}

/// Whether the folder is absent, empty, or was left half made.
pub(crate) fn is_needed(args: &NodeArgs) -> anyhow::Result<bool> {
    let dir = &args.data.data;
    Ok(!is_initialised(dir) || !configuration(args).exists())
}

/// Makes the folder; a run that was cut off between its two halves is finished.
pub(crate) fn create(args: &NodeArgs) -> anyhow::Result<()> {
    create_sealed(args, NAMES, (None, None))
}

fn create_sealed(
    args: &NodeArgs,
    names: (&str, &str),
    seals: (Option<&SealKey>, Option<&RootKeySection>),
) -> anyhow::Result<()> {
    let listen = args.listen.filter(|listen| listen.port() != 0).unwrap_or(KmsSection::default().listen);
    let dir = &args.data.data;
    if args.config.is_some() && !is_initialised(dir) && !configuration(args).exists() {
        bail!("configuration file {} does not exist", configuration(args).display());
    }
    let account = match &args.account {
        Some(account) => account.clone(),
        None if is_initialised(dir) => String::new(),
        None => bail!("{} is empty: give --account with twelve digits to initialise it", dir.display()),
    };
    create_in(dir, &account, args.region.as_deref().unwrap_or(REGION), names, listen, seals)
}

/// [`create`] for benches.
pub(crate) fn create_at(dir: &Path, account: &str, region: &str) -> anyhow::Result<()> {
    create_in(dir, account, region, NAMES, KmsSection::default().listen, (None, None))
}

fn create_in(
    dir: &Path,
    account: &str,
    region: &str,
    (cluster, node): (&str, &str),
    listen: SocketAddr,
    (seal_key, root_key): (Option<&SealKey>, Option<&RootKeySection>),
) -> anyhow::Result<()> {
    if !is_initialised(dir) {
        let options = InitOptions {
            account: account.to_owned(),
            region: region.to_owned(),
            cluster: cluster.to_owned(),
            node: node.to_owned(),
        };
        init_sealed_folder(dir, &options, seal_key).with_context(|| format!("initialise {}", dir.display()))?;
    }
    shipped::write(&dir.join("rules")).with_context(|| format!("write rules below {}", dir.display()))?;
    let file = dir.join("keytrail.toml");
    if !file.exists() {
        let node = NodeSection { region: region.to_owned(), origin: origin(dir)?, ..NodeSection::default() };
        std::fs::write(&file, Config::template(&node, listen, root_key))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// The log's name as the checkpoint key carries it.
fn origin(dir: &Path) -> anyhow::Result<String> {
    let file = dir.join("checkpoints/vkey");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let key: keytrail_kms::chain::checkpoint::VerifyKey = text.trim().parse().context("read the checkpoint key")?;
    Ok(key.name().to_owned())
}

fn configuration(args: &NodeArgs) -> std::path::PathBuf {
    args.config.clone().unwrap_or_else(|| args.data.data.join("keytrail.toml"))
}
