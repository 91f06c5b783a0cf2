//! `keytrail blast-radius`: what a key, a principal or a credential has exposed, and what to encrypt anew.

use super::log::{Log, quoted};
use super::{say, second};
use crate::cli::{BlastRadiusArgs, BlastRadiusOf};
use anyhow::{Context, bail};
use keytrail_trail::exposure::{self, Deed, Exposure, Opened, Subject};
use keytrail_trail::query::{Limits, printable};

/// Lines of one kind in the text; `--json` has all.
const LINES_MAX: usize = 40;
/// Groups by context take more memory than an ordinary query.
const MEMORY_BYTES: usize = 2 << 30;

pub(crate) async fn run(args: &BlastRadiusArgs) -> anyhow::Result<()> {
    let log = Log::open(&args.data.data).await?;
    let subject = subject(&log, &args.of).await?;
    let range = i64::try_from(args.since)?..args.until.map_or(Ok(i64::MAX), i64::try_from)?;
    if range.is_empty() {
        bail!("--until is not after --since");
    }
    let limits = Limits { deadline: *args.timeout, memory_bytes: MEMORY_BYTES, ..Limits::default() };
    let exposure = exposure::measure(log.snapshot(), &subject, &range, &limits).await?;
    if args.json {
        say(&serde_json::to_string_pretty(&exposure).context("write the answer")?);
    } else {
        lines(&subject, &exposure, range.start).iter().for_each(|line| say(&printable(line)));
    }
    Ok(())
}

async fn subject(log: &Log, of: &BlastRadiusOf) -> anyhow::Result<Subject> {
    if let Some(arn) = &of.principal {
        if !arn.starts_with("arn:") {
            bail!("{arn:?} is not an ARN");
        }
        return Ok(Subject::Principal(arn.clone()));
    }
    if let Some(id) = &of.credential {
        return Ok(Subject::Credential(id.clone()));
    }
    let name = of.key.as_deref().context("neither a key, a principal nor a credential was named")?;
    let sql = if name.starts_with("arn:") && name.contains(":key/") {
        return Ok(Subject::Key(name.to_owned()));
    } else if name.starts_with("alias/") || name.contains(":alias/") {
        let alias = name.rsplit_once(":alias/").map_or_else(|| name.to_owned(), |(_, rest)| format!("alias/{rest}"));
        format!("SELECT DISTINCT key_arn FROM aliases WHERE alias_name = {}", quoted(&alias))
    } else {
        format!("SELECT DISTINCT key_arn FROM events WHERE key_id = {}", quoted(name))
    };
    let rows = log.rows(&sql).await?;
    let arns: Vec<&str> = rows.iter().filter_map(|row| row["key_arn"].as_str()).collect();
    match arns[..] {
        [arn] => Ok(Subject::Key(arn.to_owned())),
        [] => bail!("the log knows no key {name:?}"),
        _ => bail!("{name:?} is the name of {} keys, give an ARN: {}", arns.len(), arns.join(", ")),
    }
}

fn lines(subject: &Subject, exposure: &Exposure, since: i64) -> Vec<String> {
    let (what, name) = match subject {
        Subject::Key(arn) => ("key", arn),
        Subject::Principal(arn) => ("principal", arn),
        Subject::Credential(id) => ("credential", id),
    };
    let mut lines = vec![format!("BLAST RADIUS of {what} {name} since {}", second(since))];
    let imported = match exposure.imported_calls {
        0 => String::new(),
        calls => format!(", {calls} of them records of imported logs"),
    };
    lines.push(format!("  {} successful calls{imported}", exposure.calls));
    if !exposure.followed.is_empty() {
        let ids: Vec<&str> = exposure.followed.iter().take(LINES_MAX).map(String::as_str).collect();
        lines.push(format!(
            "  with {} access keys and sessions that it made: {}",
            exposure.followed.len(),
            ids.join(" ")
        ));
    }
    let (decrypts, keys) =
        exposure.opened.iter().fold((0, 0), |(decrypts, keys), one| (decrypts + one.decrypts, keys + one.data_keys));
    lines.push(format!(
        "OPENED: {} contexts, {decrypts} ciphertexts decrypted, {keys} data keys given out in the clear",
        exposure.opened.len()
    ));
    some(&mut lines, exposure.opened.iter().map(opened_line));
    if !exposure.opened.is_empty() {
        lines.push("TO ENCRYPT ANEW".to_owned());
        lines.push(
            "  all that is stored with these contexts, under new data keys. Rotating or disabling a key recalls"
                .to_owned(),
        );
        lines.push(
            "  no data key that was given out; what was decrypted directly is known and cannot be unknown.".to_owned(),
        );
    }
    if !exposure.made.is_empty() {
        lines.push(
            "MADE OR MOVED: ciphertexts, signatures and MACs to distrust; ReEncrypt moves data under another key"
                .to_owned(),
        );
        some(&mut lines, exposure.made.iter().map(deed_line));
    }
    if !exposure.changed.is_empty() {
        lines.push("CHANGED: what is still in force has to be taken back".to_owned());
        some(&mut lines, exposure.changed.iter().map(deed_line));
    }
    lines
}

fn some(lines: &mut Vec<String>, all: impl ExactSizeIterator<Item = String>) {
    let more = all.len().saturating_sub(LINES_MAX);
    lines.extend(all.take(LINES_MAX));
    if more > 0 {
        lines.push(format!("  and {more} more: --json has all"));
    }
}

fn opened_line(one: &Opened) -> String {
    format!(
        "  {}  {}  decrypted {}, data keys {}, {} to {}, by {}",
        one.key_arn.as_deref().unwrap_or("no key"),
        one.encryption_context.as_deref().unwrap_or("no context"),
        one.decrypts,
        one.data_keys,
        second(one.first_micros),
        second(one.last_micros),
        one.principals.iter().take(4).cloned().collect::<Vec<_>>().join(" ")
    )
}

fn deed_line(deed: &Deed) -> String {
    format!(
        "  {} x {}  {}  by {}, last {}",
        deed.calls,
        deed.event_name,
        deed.key_arn.as_deref().unwrap_or("-"),
        deed.principal_arn.as_deref().unwrap_or("-"),
        second(deed.last_micros)
    )
}
