//! `keytrail signer run|move`: the log's signing key in a process, a folder and a user of its own.

use super::{say, stop_signal};
use crate::cli::SignerCommand;
use anyhow::{Context, bail};
use keytrail_kms::service::move_signer;
use keytrail_kms::signer::process::{SignerProcess, listen};
use std::path::Path;

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
    }
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
