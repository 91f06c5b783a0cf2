//! Writes the seeds of each fuzz target as files: `fuzz_seeds DIR` makes DIR/<target>/seed-<n>. For scripts/fuzz.

#![allow(clippy::print_stdout)]

use keytrail_kms::fuzz::{TARGETS, seeds};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: fuzz_seeds DIR")?);
    for (target, _) in TARGETS {
        let folder = dir.join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds(target)?.into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        println!("{target}");
    }
    Ok(())
}
