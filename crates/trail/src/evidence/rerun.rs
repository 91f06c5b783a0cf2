//! Controls computed again from the pack's own files, and compared byte for byte.
//!
//! What is run is the SQL that stands in the pack, through the same gate; where it is not what this build asks for the
//! clause, that is said, too. Shows that the results follow from the records in the pack, not that those are
//! the log's: `verify` does.

use super::control::{CONTROL_BYTES_MAX, Control, ControlError, Period, Site};
use super::controls::{self, Results, RunControlError, Scope, limits};
use super::manifest::Manifest;
use super::tables::{self, TablesError};
use super::{IoError, PAYLOAD, bag, io};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Largest JSON file or CSV read.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rerun {
    /// Controls that were run.
    pub controls: usize,
    /// Files that are not what they have to be, and why.
    pub differences: Vec<(String, String)>,
    /// Files whose SQL is not that of this build: of another version, or changed.
    pub other_sql: Vec<String>,
}

/// Why controls could not be run again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Larger than anything that is written here.
    #[error("{0} is larger than allowed")]
    TooLarge(String),
    /// JSON that is not what it has to be.
    #[error("{name} cannot be read")]
    Json {
        /// The file.
        name: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// A pack without controls.
    #[error("the pack holds no controls")]
    NoControls,
    /// A period that is none.
    #[error("the period of manifest.json cannot be read")]
    Period,
    /// The pack's tables.
    #[error("tables of the pack")]
    Tables(#[from] TablesError),
    /// A control file.
    #[error("controls of the pack")]
    Control(#[from] ControlError),
    /// Running one.
    #[error("controls of the pack")]
    Run(#[from] RunControlError),
}

/// Runs all controls of the pack in `pack` again.
pub async fn rerun(pack: &Path) -> Result<Rerun, RerunError> {
    let root = pack.join(PAYLOAD);
    let manifest: Manifest = json(&root, "manifest.json")?;
    if !root.join("controls/results.json").is_file() {
        return Err(RerunError::NoControls);
    }
    let held: Results = json(&root, "controls/results.json")?;
    let (from, to) = manifest.period.micros().ok_or(RerunError::Period)?;
    let micros = |us: u64| i64::try_from(us).map_err(|_| RerunError::Period);
    let period = Period { from_us: micros(from)?, to_us: micros(to)? };
    let mut rerun = Rerun::default();
    for (name, sha256) in &held.inputs {
        let same = is_plain(name) && bag::entry(&root.join(name)).is_ok_and(|entry| entry.sha256 == *sha256);
        if !same {
            rerun.differ(name, "is not the file that the controls were run over");
        }
    }
    if (&held.from, &held.to) != (&period.start(), &period.end()) {
        rerun.differ("controls/results.json", "is about another period than manifest.json");
    }
    let session = tables::session(&root, &limits())?;
    let all = rerun.read_controls(&root, &held, period)?;
    rerun.controls = all.len();
    let scope = Scope { period, redacted: manifest.redaction.is_some() };
    for outcome in controls::run(&session, all, &scope).await? {
        let id = &outcome.result.id;
        let csv = format!("controls/{id}.csv");
        match read(&root, &csv) {
            Ok(bytes) if bytes == outcome.csv => {}
            Ok(_) => rerun.differ(&csv, "has other rows than its SQL gives"),
            Err(_) => rerun.differ(&csv, "cannot be read"),
        }
        if held.results.iter().find(|result| result.id == *id) != Some(&outcome.result) {
            rerun.differ("controls/results.json", &format!("says something else about {id}"));
        }
    }
    Ok(rerun)
}

impl Rerun {
    fn differ(&mut self, name: &str, why: &str) {
        self.differences.push((name.to_owned(), why.to_owned()));
    }

    /// The control files of the pack, each of which has to be what the results name.
    fn read_controls(&mut self, root: &Path, held: &Results, period: Period) -> Result<Vec<Control>, RerunError> {
        let set = &held.control_set;
        let ours = Control::of_set(set, &Site::default(), &period).unwrap_or_default();
        let folder = root.join("controls");
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io("list", &folder))? {
            let name = entry.map_err(io("list", &folder))?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".sql").map(str::to_owned));
        }
        names.sort();
        for result in held.results.iter().filter(|result| !names.contains(&result.id)) {
            self.differ(&format!("controls/{}.sql", result.id), "is missing");
        }
        for id in ours.iter().map(|ours| &ours.header.id).filter(|id| !names.contains(id)) {
            self.differ(&format!("controls/{id}.sql"), "belongs to the set and is missing");
        }
        let mut all = Vec::new();
        for id in names {
            let file = format!("controls/{id}.sql");
            let bytes = read(root, &file)?;
            if bytes.len() > CONTROL_BYTES_MAX {
                return Err(RerunError::TooLarge(file));
            }
            let control = Control::parse(&file, &String::from_utf8_lossy(&bytes))?;
            let header = &control.header;
            if header.id != id || (&header.from, &header.to) != (&period.start(), &period.end()) {
                self.differ(&file, "names another clause or period");
            }
            // Params are the site's; everything else of the text follows from them and from what this build ships.
            if Control::shipped(set, &id, &header.params, &period).ok().flatten().as_ref() != Some(&control) {
                self.other_sql.push(file);
            }
            all.push(control);
        }
        Ok(all)
    }
}

/// A name below the pack's payload that leads nowhere else.
fn is_plain(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn json<T: serde::de::DeserializeOwned>(root: &Path, name: &'static str) -> Result<T, RerunError> {
    serde_json::from_slice(&read(root, name)?).map_err(|source| RerunError::Json { name, source })
}

fn read(root: &Path, name: &str) -> Result<Vec<u8>, RerunError> {
    let path = root.join(name);
    let file = File::open(&path).map_err(io("open", &path))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io("read", &path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(RerunError::TooLarge(name.to_owned()));
    }
    Ok(bytes)
}
