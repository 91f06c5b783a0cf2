//! `keytrail quarantine lift`: frees a principal on a stopped node, when nobody is left who could do it by a call.

use super::{say, seal_key, signer_socket};
use crate::cli::QuarantineCommand;
use anyhow::Context;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::service::lift_quarantine_offline;
use std::sync::Arc;

/// Takes the folder's lock, writes the lift as an event, lets go.
pub(crate) async fn run(command: QuarantineCommand) -> anyhow::Result<()> {
    let QuarantineCommand::Lift { data, principal, reason, passphrase_file } = command;
    let seal_key = seal_key::of_root_key(&data.data, passphrase_file.as_deref())?.map(Arc::new);
    let keys = (seal_key, signer_socket(&data.data)?);
    let seq = lift_quarantine_offline(&data.data, &principal, &reason, keys, Arc::new(SystemClock)).await;
    let seq = seq.context("lift the quarantine")?;
    say(&format!("lifted the quarantine of {principal} (seq {seq})"));
    Ok(())
}
