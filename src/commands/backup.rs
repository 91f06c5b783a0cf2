//! `keytrail backup` and `keytrail restore`: one consistent set of a data folder, and its way back.
//!
//! Readers of the log are copied before the log, each before whom it reads from: responder, trail, imports, lake; why, says
//! `keytrail_kms::backup`. The trail's spool and what waits unproved behind Kafka are left out: both are fetched anew.

use super::say;
use crate::cli::{BackupArgs, RestoreArgs};
use anyhow::Context;
use keytrail_kms::backup::{self, Against, Manifest, Taking};
use keytrail_kms::chain::VerifyKey;
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::crypto::{RootKey, Seal};
use keytrail_trail::{import, lake};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let dir = &args.data.data;
    let manifest = take(dir, args).with_context(|| format!("back up {}", dir.display()))?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    say(&format!("backup      {}", args.out.display()));
    tell(&manifest, bytes, started.elapsed());
    if !manifest.root_key_included {
        say("root key    not in the set: keep root.key elsewhere, without it the set opens no key");
    }
    tell_token(&args.out);
    Ok(())
}

fn take(dir: &Path, args: &BackupArgs) -> anyhow::Result<Manifest> {
    let taking = Taking::begin(dir, &args.out)?;
    taking.database("responder.db")?;
    taking.database("trail.db")?;
    for name in import::names(dir) {
        // What an import says is done must be in the lake that is copied after it.
        taking.database(&format!("imports/{name}/files.db"))?;
        for file in import::SIGNER_FILES {
            taking.file(&format!("imports/{name}/{file}"))?;
        }
    }
    let lake = dir.join("lake");
    if lake.is_dir() {
        for path in lake::committed(&lake)? {
            anyhow::ensure!(taking.file(&format!("lake/{path}"))?, "file {path} of the lake is gone");
        }
    }
    Ok(taking.finish(args.with_root_key, SystemClock.now_us())?)
}

pub(crate) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let dir = &args.data.data;
    let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    let key: Option<VerifyKey> = match &args.vkey {
        Some(file) => Some(read(file)?.trim().parse().with_context(|| format!("read the key in {}", file.display()))?),
        None => None,
    };
    let against = match (&args.newer_than, &args.brokers) {
        (Some(file), _) => Against::Note(read(file)?),
        (None, Some(brokers)) => Against::Brokers(brokers.clone()),
        (None, None) => Against::Nothing,
    };
    let restored = backup::restore(&args.from, dir, key.as_ref(), &against)
        .with_context(|| format!("restore {} on {}", args.from.display(), dir.display()))?;
    say(&format!("restored    {}", dir.display()));
    tell(&restored.manifest, restored.bytes, started.elapsed());
    say(&match restored.compared_size {
        Some(size) => format!("compared    with a checkpoint over {size} records"),
        None => "compared    with nothing: what was deleted after the set was taken is back".to_owned(),
    });
    if !restored.manifest.root_key_included {
        say(&format!("root key    put your root.key into {} before the start", dir.display()));
    }
    tell_token(dir);
    Ok(())
}

/// A root key that is sealed by a token needs that token as well.
fn tell_token(dir: &Path) {
    if let Ok(Seal::Token { token, key, .. }) = RootKey::seal_of(&dir.join("root.key")) {
        say(&format!("root key    opens with key {key:?} of token {token:?} only: keep a copy of the token too"));
    }
}

fn tell(manifest: &Manifest, bytes: u64, took: Duration) {
    say(&format!("log         {}", manifest.origin));
    say(&format!("verified    {} records, root {}", manifest.size, manifest.root_hash));
    say(&format!("files       {} with {:.1} MiB", manifest.files.len(), bytes as f64 / f64::from(1 << 20)));
    say(&format!("minutes     {:.2}", took.as_secs_f64() / 60.0));
}
