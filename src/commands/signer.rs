//! `keytrail signer run|move|prepare|rotate`: the log's signing key in a process, a folder and a user of its own.

use super::{say, seal_key, signer_socket, stop_signal};
use crate::cli::SignerCommand;
use anyhow::{Context, bail};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::service::{move_signer, rotate_signer_offline};
use keytrail_kms::signer::make_successor;
use keytrail_kms::signer::process::{SignerProcess, listen};
use std::path::Path;
use std::sync::Arc;

pub(crate) async fn run(command: SignerCommand) -> anyhow::Result<()> {
    match command {
        SignerCommand::Run { dir, socket } => serve(&dir, &socket).await,
        SignerCommand::Move { data, dir } => {
            let key = move_signer(&data.data, &dir).context("move the signer")?;
            let (data, dir) = (data.data.display(), dir.display());
            say(&format!("moved       the key of {} to {dir}", key.name()));
            say(&format!("give it     chown -R its own user's: {dir}"));
            say("start it    keytrail signer run --dir DIR --socket FILE");
            say(&format!("tell it     [signer] socket = \"FILE\" in {data}/keytrail.toml"));
            Ok(())
        }
        SignerCommand::Rotate { data, passphrase_file } => rotate(&data.data, passphrase_file.as_deref()).await,
        SignerCommand::Prepare { dir } => {
            let key = make_successor(&dir).context("prepare the next key")?;
            say(&format!("prepared    {key}"));
            say("rotate      keytrail signer rotate --data DIR, on the stopped node, while this signer runs");
            Ok(())
        }
    }
}

async fn rotate(dir: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<()> {
    let seal_key = seal_key::of_root_key(dir, passphrase_file)?.map(Arc::new);
    let rotated = rotate_signer_offline(dir, (seal_key, signer_socket(dir)?), Arc::new(SystemClock)).await;
    let transition = rotated.context("rotate the log's signing key")?;
    say(&format!("was         {}", transition.old_key));
    say(&format!("is          {} (from the record at seq {} on)", transition.new_key, transition.size));
    say("tell        witnesses, trust policies and remote parts; whoever verifies with the old key follows by itself");
    Ok(())
}

async fn serve(dir: &Path, socket: &Path) -> anyhow::Result<()> {
    let mut stop = stop_signal()?;
    if !dir.is_dir() {
        bail!("{} is no folder: `keytrail signer move` makes it", dir.display());
    }
    let process = SignerProcess::open(dir).with_context(|| format!("open the signer in {}", dir.display()))?;
    let listener = listen(socket).with_context(|| format!("listen on {}", socket.display()))?;
    say(&format!("ready signer={} vkey={}", socket.display(), process.verify_key()));
    tokio::select! {
        () = process.serve(listener) => {}
        () = stop.wait() => {}
    }
    // What a signature needs is on the disk before it leaves; a question under way is asked again.
    std::fs::remove_file(socket).with_context(|| format!("remove {}", socket.display()))
}
