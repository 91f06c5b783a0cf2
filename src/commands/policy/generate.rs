//! `keytrail policy generate`: the policy that the recorded calls needed, checked by replaying and linting it.
//!
//! The policy goes to stdout, everything else to stderr. Exit code 0 when the replay tells every call and denies none that
//! was allowed, and lint finds nothing; else 1.

use super::past::{key_arn, snapshot};
use super::replay::replay;
use crate::cli::PolicyGenerateArgs;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_kms::past::{Replacement, Replayed, Usage};
use keytrail_kms::policy::Flavor;
use keytrail_kms::policy::lint::lint;
use keytrail_trail::lake::Snapshot;
use keytrail_trail::lake::events::{Wanted, events};
use keytrail_trail::query::printable;
use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;

pub(super) async fn run(args: PolicyGenerateArgs) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(&args.data.data).await?;
    let generated = tokio::task::spawn_blocking(move || generate(&args, &snapshot));
    let Generated { policy, replayed, by_grant, flavor, account } =
        generated.await.context("join the generation")??;
    let findings = lint(&policy, flavor, &account).context("lint the policy")?;
    say(&policy);
    tracing::info!(
        calls = replayed.calls,
        allowed_besides = replayed.allowed,
        by_grant,
        "no call would have been denied"
    );
    for finding in &findings {
        let statement = finding.statement.as_deref().unwrap_or("-");
        let message = printable(&finding.message);
        tracing::warn!(finding = finding.code, statement, "what was done needs it: {message}");
    }
    let untold = replayed.untold + replayed.unreadable;
    if untold > 0 {
        tracing::warn!(untold, "calls or changes of which the log does not say enough: the policy may be too narrow");
    }
    Ok(if findings.is_empty() && untold == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

struct Generated {
    policy: String,
    replayed: Replayed,
    by_grant: u64,
    flavor: Flavor,
    account: String,
}

fn generate(args: &PolicyGenerateArgs, snapshot: &Arc<Snapshot>) -> anyhow::Result<Generated> {
    let time_us = args.time.range();
    let (arn, flavor, mut usage) = match (&args.subject.key, &args.subject.identity) {
        (Some(key), _) => {
            let arn = key_arn(snapshot, key)?;
            let usage = Usage::of_key(&arn, time_us.clone());
            (arn, Flavor::KeyPolicy, usage)
        }
        (None, Some(arn)) => (arn.clone(), Flavor::IdentityPolicy, Usage::of_identity(arn, time_us.clone())?),
        (None, None) => bail!("name a key or an identity"),
    };
    let wanted = Wanted { time_us: time_us.clone(), key_arn: usage.only_key().map(str::to_owned), tls: false };
    for (log, _) in snapshot.own_logs() {
        let visit = |row: &keytrail_kms::row::Row<'_>| {
            usage.take(row);
            Ok::<(), Infallible>(())
        };
        events(snapshot, log, &wanted, visit).context("read the log")?;
        usage.next_log();
    }
    // The second one is for calls whose circumstances no condition fits.
    for conditions in [true, false] {
        let policy = usage.policy(conditions)?;
        let replacement = match flavor {
            Flavor::KeyPolicy => Replacement::key(&arn, &policy),
            Flavor::IdentityPolicy | Flavor::TrustPolicy => Replacement::identity(&arn, &policy),
        };
        let replayed = replay(snapshot, &replacement.context("try the policy")?, &time_us)?;
        if replayed.denied == 0 {
            let account = arn.split(':').nth(4).unwrap_or_default().to_owned();
            return Ok(Generated { policy, replayed, by_grant: usage.by_grant(), flavor, account });
        }
    }
    bail!("no policy was found that allows what was allowed")
}
