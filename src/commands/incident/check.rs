//! `keytrail incident check`: do the timelines of responder.db link, and does the log have the same entries?
//!
//! The log's side is read like any other query, from the lake and its tail, so it works beside a running node and on a
//! folder that Kafka fills. An entry that the log has not yet is no fault; one that it has differently is.

use crate::commands::log::{Log, quoted};
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_responder::incident;
use keytrail_responder::incident::timeline::{self, Recorded, TimelineEntry};
use keytrail_responder::store::Store;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Most incidents checked at once.
const INCIDENTS_MAX: u32 = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    incident_id: String,
    entries: Vec<Recorded>,
}

pub(super) async fn run(dir: &Path, id: Option<&str>) -> anyhow::Result<()> {
    let told = told(dir, id).await?;
    let store = Store::open_existing(dir).context("open responder.db")?;
    let ids: Vec<String> = match id {
        Some(id) => vec![id.to_owned()],
        None => {
            let all = store.read_now(|db| incident::listed(db, None, INCIDENTS_MAX)).context("list incidents")?;
            all.into_iter().map(|one| one.id.to_string()).collect()
        }
    };
    let mut faults = 0;
    for id in &ids {
        let detail = incident::show(dir, id).context("read the incident")?;
        let detail = detail.with_context(|| format!("there is no incident {id}: see `keytrail incident list`"))?;
        let own: Vec<TimelineEntry> =
            detail.timeline.into_iter().filter(|entry| entry.incident.as_str() == id).collect();
        let recorded = told.get(id).map(Vec::as_slice).unwrap_or_default();
        match timeline::fault(&own).map_or_else(|| timeline::agree(&own, recorded), Err) {
            Ok(through) => {
                let (first, last) =
                    (own.first().map_or(1, |entry| entry.number), own.last().map_or(0, |entry| entry.number));
                let left =
                    if first > 1 { format!("; those before {first} have left this file") } else { String::new() };
                say(&format!("{id} links; the log has {through} of {last} entries and agrees{left}"));
            }
            Err(fault) => {
                faults += 1;
                say(&format!("{id} FAULT: {fault}"));
            }
        }
    }
    // What the log has of incidents that are not in the file any more.
    let lost: Vec<&String> = told.keys().filter(|known| !ids.contains(known)).collect();
    for id in &lost {
        say(&format!("{id} FAULT: the log has its timeline and responder.db has not"));
    }
    match faults + lost.len() {
        0 => Ok(()),
        faults => bail!("{faults} timelines are not what they were"),
    }
}

/// What the log has, by incident, in the order of the log.
async fn told(dir: &Path, id: Option<&str>) -> anyhow::Result<BTreeMap<String, Vec<Recorded>>> {
    let log = Log::open(dir).await?;
    let one = id
        .map_or_else(String::new, |id| format!(" AND json_get_str(request_parameters, 'incidentId') = {}", quoted(id)));
    let sql = format!(
        "SELECT seq, request_parameters FROM events WHERE {} AND event_source = 'keytrail.internal' \
         AND event_name = 'RecordIncident' AND error_code IS NULL AND actor_class = 'responder'{one} ORDER BY seq",
        log.own()
    );
    let mut told: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for row in log.rows(&sql).await.context("read the log")? {
        let text = row.get("request_parameters").and_then(Value::as_str).unwrap_or_default();
        let parameters: Parameters = serde_json::from_str(text).context("read a record of a timeline")?;
        told.entry(parameters.incident_id).or_default().extend(parameters.entries);
    }
    Ok(told)
}
