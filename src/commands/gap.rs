//! `keytrail gap key|declare|sign|apply`: the one way past a start-up that was refused for a log that is not whole.

use super::{say, signer_socket};
use crate::cli::GapCommand;
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::chain::{GapDeclaration, VerifyKey};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::gap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) async fn run(command: GapCommand) -> anyhow::Result<()> {
    match command {
        GapCommand::Key { dir, name } => {
            let key = gap::make_operator(&dir, &name).context("make an operator's key")?;
            say(&format!("operator    {key}"));
            Ok(())
        }
        GapCommand::Declare { data, known, reason, out } => {
            blocking(move || declare(&data.data, &known, &reason, &out)).await
        }
        GapCommand::Sign { file, dir } => sign(&file, dir.as_deref()),
        GapCommand::Apply { data, file } => blocking(move || apply(&data.data, &file)).await,
    }
}

/// Journals and signers are waited for in their own way.
async fn blocking(work: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(work).await.context("wait for the work")?
}

fn declare(dir: &Path, known: &[PathBuf], reason: &str, out: &Path) -> anyhow::Result<()> {
    let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    let notes = known.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let socket = signer_socket(dir)?;
    let declared = gap::declare(dir, (&notes, socket.as_deref()), reason, &SystemClock).context("declare a gap")?;
    write(out, &declared, true)?;
    show(&declared);
    say(&format!(
        "sign it     keytrail gap sign {} --dir DIR, two operators, each on a machine of their own",
        out.display()
    ));
    Ok(())
}

fn sign(file: &Path, dir: Option<&Path>) -> anyhow::Result<()> {
    let mut declared = read(file)?;
    show(&declared);
    let Some(dir) = dir else { return Ok(()) };
    let key = gap::operator(dir).context("read the operator's key")?;
    declared.sign(&key).context("sign the declaration")?;
    write(file, &declared, false)?;
    say(&format!("signed by   {}", key.verify_key()));
    Ok(())
}

fn apply(dir: &Path, file: &Path) -> anyhow::Result<()> {
    let declared = read(file)?;
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let operators: Vec<VerifyKey> = config.recovery.operators()?;
    if operators.is_empty() {
        bail!("keytrail.toml names no operators: [recovery] operators_file");
    }
    gap::apply(dir, &declared, &operators, Arc::new(SystemClock)).context("apply the declaration")?;
    // The responder believes one log's checkpoints: from now on the new one's.
    keytrail_responder::forget_log_key(dir).context("let the responder take the new log's key")?;
    show(&declared);
    say("former log  in former/, ended; its signing key is destroyed");
    say("next        give checkpoints/vkey to witnesses and policies, move the key to its signer, start the node");
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<GapDeclaration> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    GapDeclaration::parse(&bytes).with_context(|| format!("read {}", file.display()))
}

fn write(file: &Path, declared: &GapDeclaration, new: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(new).truncate(!new).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(format!("{}\n", declared.to_json()).as_bytes()));
    written.with_context(|| format!("write {}", file.display()))
}

fn show(declared: &GapDeclaration) {
    for line in super::verify::gap_lines(declared) {
        say(&line);
    }
    for operator in &declared.operators {
        say(&format!("signature   {}", operator.key));
    }
}
