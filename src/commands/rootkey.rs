//! `keytrail rootkey status|reseal|rotate`: what protects the file of the root key, and another root key. The node need not
//! stop: a running one notices another seal by itself, and is given another root key through its socket.

use super::{say, seal_key, signer_socket};
use crate::cli::RootkeyCommand;
use anyhow::Context;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::crypto::{RootKey, Seal, SealKey};
use keytrail_kms::service::{RotateError, StartError, rotate_offline, rotate_running};
use std::path::Path;
use std::sync::Arc;

pub(crate) async fn run(command: RootkeyCommand) -> anyhow::Result<()> {
    match command {
        RootkeyCommand::Status(data) => {
            let seal = RootKey::seal_of(&data.data.join("root.key")).context("look at the root key")?;
            say(&format!("sealed by {}", described(&seal)));
        }
        RootkeyCommand::Reseal { data, seal, passphrase_file, new_passphrase_file, create_token_key } => {
            let old = seal_key::of_root_key(&data.data, passphrase_file.as_deref())?;
            let new = seal_key::new(&data.data, seal, new_passphrase_file.as_deref(), create_token_key)?;
            let path = data.data.join("root.key");
            let sealed = RootKey::reseal(&path, old.as_ref(), new.as_ref()).context("seal the root key anew")?;
            say(&format!("sealed by {}; the node logs it now or at its next start", described(&sealed)));
        }
        RootkeyCommand::Rotate { data, passphrase_file, end_tokens } => {
            let seal_key = seal_key::of_root_key(&data.data, passphrase_file.as_deref())?.map(Arc::new);
            rotate(&data.data, seal_key, end_tokens).await?;
        }
    }
    Ok(())
}

/// Through the node that runs on the folder, or on the folder itself.
async fn rotate(dir: &Path, seal_key: Option<Arc<SealKey>>, end_tokens: bool) -> anyhow::Result<()> {
    let keys = (seal_key.clone(), signer_socket(dir)?);
    let stopped = rotate_offline(dir, keys, end_tokens, Arc::new(SystemClock)).await;
    let (id, materials) = match stopped {
        Err(RotateError::Start(StartError::Locked { .. })) => {
            let dir = dir.to_owned();
            let rotating = move || rotate_running(&dir, seal_key.as_deref(), end_tokens);
            let answer = tokio::task::spawn_blocking(rotating).await?.context("rotate the root key")?;
            let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
            (text("rootKeyId"), answer["keyMaterials"].as_u64().unwrap_or_default())
        }
        other => {
            let (id, materials) = other.context("rotate the root key")?;
            (id, materials as u64)
        }
    };
    say(&format!("root key {id} is in force, {materials} generations of key material are wrapped under it"));
    say("keep the root key of before as long as backup sets of before");
    Ok(())
}

fn described(seal: &Seal) -> String {
    match seal {
        Seal::File => "file: whoever reads root.key has the root key".to_owned(),
        Seal::Passphrase { cost, .. } => format!(
            "passphrase: Argon2id, {} MiB, {} passes, {} lanes",
            cost.memory_kib / 1024,
            cost.passes,
            cost.lanes
        ),
        Seal::Token { token, key, .. } => format!("pkcs11: key {key:?} of token {token:?}"),
    }
}
