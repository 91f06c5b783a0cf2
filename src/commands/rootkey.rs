//! `keytrail rootkey status|reseal`: what protects the file of the root key. The node need not stop: the key stays the
//! same, and a running node puts the change into the log by itself.

use super::{passphrase, say};
use crate::cli::{RootkeyCommand, SealedBy};
use anyhow::Context;
use keytrail_kms::crypto::{RootKey, Seal};

pub(crate) fn run(command: RootkeyCommand) -> anyhow::Result<()> {
    match command {
        RootkeyCommand::Status(data) => {
            let seal = RootKey::seal_of(&data.data.join("root.key")).context("look at the root key")?;
            say(&format!("sealed by {}", described(seal)));
        }
        RootkeyCommand::Reseal { data, seal, passphrase_file, new_passphrase_file } => {
            let old = passphrase::of_root_key(&data.data, passphrase_file.as_deref())?;
            let new = match seal {
                SealedBy::File => None,
                SealedBy::Passphrase => Some(passphrase::new(new_passphrase_file.as_deref())?),
            };
            let path = data.data.join("root.key");
            let sealed = RootKey::reseal(&path, old.as_ref(), new.as_ref()).context("seal the root key anew")?;
            say(&format!("sealed by {}; the node logs it now or at its next start", described(sealed)));
        }
    }
    Ok(())
}

fn described(seal: Seal) -> String {
    match seal {
        Seal::File => "file: whoever reads root.key has the root key".to_owned(),
        Seal::Passphrase { cost, .. } => format!(
            "passphrase: Argon2id, {} MiB, {} passes, {} lanes",
            cost.memory_kib / 1024,
            cost.passes,
            cost.lanes
        ),
    }
}
