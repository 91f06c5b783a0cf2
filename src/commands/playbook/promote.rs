//! `keytrail playbook promote`: a report of what a playbook would have done, a question, and an entry that the log gets.

use super::{load, rules_of, store};
use crate::cli::{DataArgs, PromotedMode};
use crate::commands::now_us;
use crate::commands::{Settings, operator, say};
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_responder::act::SignedControl;
use keytrail_responder::announced::{self, Changes};
use keytrail_responder::playbook::Mode;
use keytrail_responder::rehearse::past::{self, LOOK_BACK, Report};
use keytrail_responder::standing;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;

pub(super) async fn run(
    data: &DataArgs,
    id: &str,
    to: PromotedMode,
    yes: bool,
    by: Option<String>,
) -> anyhow::Result<()> {
    let to = match to {
        PromotedMode::Observe => Mode::Observe,
        PromotedMode::Enforce => Mode::Enforce,
    };
    let playbooks = load(&rules_of(data))?;
    let Some(playbook) = playbooks.iter().find(|playbook| playbook.id == id) else {
        bail!("there is no playbook {id}: see `keytrail playbook list`");
    };
    let config = Config::read(&data.data.join("keytrail.toml"))?;
    let changes = changes(&data.data, &config).await.map_err(|error| format!("{error:#}"));
    if let Err(error) = &changes {
        say(&format!("announced changes cannot be read, so none counts below: {error}"));
    }
    let since_us = now_us().saturating_sub(i64::try_from(LOOK_BACK.as_micros()).unwrap_or(i64::MAX));
    let report = past::replay(&data.data, playbook, &config.responder, Some(changes), since_us)?;
    show(&report);
    if to > playbook.mode {
        bail!(
            "the file says mode = \"{}\", which is the most that {id} may do: set mode = \"{to}\" there first, and start \
             the responder again",
            playbook.mode
        );
    }
    if !yes && !confirmed(id, to)? {
        bail!("nothing was changed");
    }
    let (by, summary) = (by.unwrap_or_else(operator), report.summary());
    store(data)?.write_now(|tx| Ok(standing::promote(tx, id, to, &by, &summary, now_us())))??;
    say(&format!("{id} is set to {to} by {by}; the log is told"));
    Ok(())
}

fn show(report: &Report) {
    say(&report.summary());
    if report.refused > 0 {
        say(&format!("{} alerts do not verify and led to nothing", report.refused));
    }
    if report.cut {
        say("only the newest alerts were looked at");
    }
    for (title, lines) in [("WOULD HAVE DONE", &report.by_target), ("WOULD HAVE HELD", &report.by_reason)] {
        if !lines.is_empty() {
            say(&format!("\n{title}"));
        }
        for line in lines {
            say(&format!("  {:>5}  {:<22} {}", line.count, line.action, line.about));
        }
    }
}

fn confirmed(id: &str, to: Mode) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask: give --yes");
    }
    let mut out = std::io::stderr().lock();
    write!(out, "\nType {id} to set it to {to}: ").and_then(|()| out.flush()).context("ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim() == id)
}

/// The announced changes, as the responder reads them.
async fn changes(dir: &Path, config: &Config) -> anyhow::Result<Arc<Changes>> {
    let credentials = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let (endpoint, trust) = Settings::endpoint(dir, config)?;
    let control = SignedControl::new(&endpoint, trust, credentials, &config.node.region).context("make a client")?;
    Ok(Arc::new(announced::read(&control).await.context("ask the key service")?))
}
