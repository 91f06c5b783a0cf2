//! `keytrail policy who-can`: who could do something on a key, through what, and under which conditions.

use super::past::{folded, snapshot};
use super::say_printable;
use crate::cli::PolicyWhoCanArgs;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_kms::past::{Past, Right};
use keytrail_kms::policy::{KMS_ACTIONS, Way};
use std::process::ExitCode;

pub(super) async fn run(args: PolicyWhoCanArgs) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = args.actions.iter().find(|action| !is_action(action)) {
        bail!("{unknown} is no action of KMS");
    }
    let snapshot = snapshot(&args.data.data).await?;
    let json = args.json;
    let rights = tokio::task::spawn_blocking(move || {
        let now_us =
            args.at.unwrap_or_else(|| u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or_default());
        let mut rights = Vec::new();
        for mut past in folded(&snapshot, args.at.unwrap_or(u64::MAX))? {
            if past.unreadable() > 0 {
                bail!("{} changes in the log could not be read", past.unreadable());
            }
            for key in keys(&past, args.key.as_deref()) {
                rights.extend(past.who_can(&args.actions, &key, now_us));
            }
        }
        if rights.is_empty() && args.key.is_some() {
            bail!("the log has no key {} at that time, or nobody may do it", args.key.unwrap_or_default());
        }
        Ok::<Vec<Right>, anyhow::Error>(rights)
    });
    let rights = rights.await.context("join the fold")??;
    if json {
        say(&serde_json::to_string(&rights).context("write the result")?);
    } else {
        rights.iter().for_each(print);
        say(&format!("{} rights", rights.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn is_action(action: &str) -> bool {
    action.strip_prefix("kms:").is_some_and(|name| KMS_ACTIONS.iter().any(|(known, _)| *known == name))
}

fn keys(past: &Past, named: Option<&str>) -> Vec<String> {
    match named {
        Some(arn) if arn.contains(":key/") => vec![arn.to_owned()],
        Some(named) => past.keys_named(named),
        None => past.key_arns().map(str::to_owned).collect(),
    }
}

fn print(right: &Right) {
    let Right { principal, action, key_arn, unknown, survey } = right;
    say_printable(&format!("{action}  {principal}  on {key_arn}"));
    if *unknown {
        say("  not known to the log: its own account has to allow it, too, if that is another one");
    }
    survey.ways.iter().for_each(|way| print_way("through", way));
    survey.unless.iter().for_each(|way| print_way("unless", way));
}

fn print_way(word: &str, Way { through, conditions }: &Way) {
    let when = if conditions.is_empty() { String::new() } else { format!(" if {}", conditions.join(" and ")) };
    say_printable(&format!("  {word} {}{when}", through.join(" with ")));
}
