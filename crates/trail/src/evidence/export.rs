//! Making a pack: heads and a snapshot first, then one pass a log, then what follows from it, the manifest and the bag.
//!
//! Works beside a running service, from which it takes nothing but files. The pack is made under a temporary name and
//! appears whole or not at all. Further parts (controls, state, statement) are files like any other: they are added
//! at the end of `payload`, before the manifest.

use super::access::AccessLog;
use super::alerts::{self, AlertsError};
use super::control::Site;
use super::derived::{self, DerivedError};
use super::digest::{DigestError, DigestLog};
use super::earlier::{self, Earlier, EarlierError};
use super::keys::{KeyFileError, Keys};
use super::leaves::{Entry, LeavesError, LeavesReader};
use super::manifest::{self, DigestKeyEntry, LogEntry, MANIFEST_VERSION, Manifest, Period, RedactionNote};
use super::pass::{Job, PassError, Passed, Written, bracket};
use super::redact::{Condition, RedactError};
use super::sample::{LogSample, SAMPLE_MAX, Sample, seed};
use super::source::{self, SourceError, SourceLog};
use super::state::Access;
use super::{IoError, PAYLOAD, bag, io, rfc3339};
use crate::lake::Snapshot;
use crate::lake::file::FileError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::chain::{LogId, TlogProof, TreeError, TrustPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a pack carries for its reader: a page, and two verifiers that have no code in common with ours.
const FOR_THE_READER: [(&str, &[u8]); 3] = [
    ("VERIFY.md", include_bytes!("VERIFY.md")),
    ("verify.py", include_bytes!("verify.py")),
    ("verify.html", include_bytes!("verify.html")),
];

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct Request {
    /// The data folder.
    pub dir: PathBuf,
    /// Begin of the period, inclusive, Unix microseconds.
    pub from_us: u64,
    /// Its end, exclusive.
    pub to_us: u64,
    /// The time of the export.
    pub now_us: u64,
    /// Who exports.
    pub exported_by: String,
    /// Program and version.
    pub tool: String,
    /// Name of the set of controls.
    pub control_set: Option<String>,
    /// The site's values for their params.
    pub site: Site,
    /// Who may use or administer which key at the end of the period; of a redacted pack it is left out.
    pub access: Vec<Access>,
    /// What the statement has to say besides, in sentences.
    pub remarks: Vec<String>,
    /// What is withheld.
    pub redaction: Option<Redaction>,
    /// Whether events are written as OCSF, too.
    pub ocsf: bool,
    /// The auditor's part of the seed of the sample.
    pub nonce: String,
    /// How many records are drawn from each log, at most `SAMPLE_MAX`.
    pub sample: u32,
    /// An earlier pack's folder, which this one is proved to continue.
    pub previous: Option<PathBuf>,
    /// The node's trust policy (C2SP tlog-policy), where it has one.
    pub policy: Option<String>,
    /// Why this export will be no event in the log; None when it is recorded before the pack is handed out.
    pub unrecorded: Option<String>,
    /// Incidents of the period as the responder has them: objects with `alerts`, each with an `alert_id`.
    pub incidents: Vec<serde_json::Value>,
    /// The pack: a folder, or a tar if the name ends in `.tar`. Must not exist.
    pub out: PathBuf,
}

impl Request {
    fn period(&self) -> Period {
        Period { from: rfc3339(self.from_us), to: rfc3339(self.to_us) }
    }
}

/// Rows that are withheld from a pack.
#[derive(Clone, Debug)]
pub struct Redaction {
    /// SQL condition.
    pub condition: String,
    /// Why.
    pub reason: String,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// As in the pack.
    pub manifest: Manifest,
    /// SHA-256 of `manifest.json`, hex.
    pub manifest_sha256: String,
    /// What the operator should know of the lake.
    pub notices: Vec<String>,
}

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Logs and their heads.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The earlier pack.
    #[error("pack cannot continue the earlier one")]
    Earlier(#[from] EarlierError),
    /// The exporter's keys.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The condition of the redaction.
    #[error(transparent)]
    Redact(#[from] RedactError),
    /// The lake.
    #[error("lake")]
    File(#[from] FileError),
    /// The pass over a log.
    #[error("log {log} cannot be exported")]
    Pass {
        /// Its origin.
        log: String,
        /// Why.
        source: PassError,
    },
    /// The records are not those that were signed.
    #[error("records of log {0} do not give the root of its checkpoint")]
    Root(String),
    /// A proof of a sampled record.
    #[error("proof of a sampled record cannot be made")]
    Proof(#[source] Box<TreeError<IoError>>),
    /// What was just written cannot be read.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// Digests.
    #[error("digests")]
    Digest(#[from] DigestError),
    /// Alerts.
    #[error("alerts")]
    Alerts(#[from] AlertsError),
    /// State, controls and statement.
    #[error(transparent)]
    Derived(#[from] DerivedError),
    /// JSON of the pack's own files.
    #[error("pack's own files cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// An empty or impossible period.
    #[error("period is none: it ends before it begins, or has times that cannot be written")]
    Period,
    /// A sample that is too large.
    #[error("sample of {0} records is larger than {SAMPLE_MAX}")]
    Sample(u32),
    /// The folder is there.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The background job ended without an answer.
    #[error("export ended without an answer")]
    Job(#[source] tokio::task::JoinError),
}

/// A pack that is whole and stands under a temporary name. Dropped without [`Sealed::publish`], it is gone.
pub struct Sealed {
    /// What was made.
    pub exported: Exported,
    _folder: Temporary,
    made: PathBuf,
    out: PathBuf,
}

impl Sealed {
    /// Gives the pack its name.
    pub fn publish(self) -> Result<Exported, IoError> {
        fs::rename(&self.made, &self.out).map_err(io("name", &self.out))?;
        Ok(self.exported)
    }
}

/// Makes the pack.
pub async fn export(request: Request) -> Result<Exported, ExportError> {
    Ok(seal(request).await?.publish()?)
}

/// Makes the pack, and leaves it to the caller to publish it.
pub async fn seal(request: Request) -> Result<Sealed, ExportError> {
    let period = request.period();
    if period.micros() != Some((request.from_us, request.to_us)) {
        return Err(ExportError::Period);
    }
    if request.sample > SAMPLE_MAX {
        return Err(ExportError::Sample(request.sample));
    }
    if request.out.exists() {
        return Err(ExportError::Exists(request.out));
    }
    let condition = request.redaction.as_ref().map(|redaction| Condition::parse(&redaction.condition)).transpose()?;
    let (logs, snapshot) = source::open(&request.dir, request.policy.as_deref()).await?;
    let earlier = request.previous.as_deref().map(|folder| earlier::open(folder, &logs)).transpose()?;
    let job = move || {
        let mut notices = snapshot.notices().to_vec();
        let (keys, snapshot, earlier) = (Keys::open(&request.dir)?, Arc::new(snapshot), earlier.unwrap_or_default());
        let export = Export { keys, request, condition, earlier, snapshot };
        let mut sealed = export.run(&logs)?;
        if !sealed.exported.manifest.files.contains_key(derived::PDF) {
            notices.push("no statement.pdf was made: the program typst is not on PATH or failed".to_owned());
        }
        sealed.exported.notices = notices;
        Ok(sealed)
    };
    tokio::task::spawn_blocking(job).await.map_err(ExportError::Job)?
}

/// A log that is in the pack.
struct LogDone {
    entry: LogEntry,
    sample: LogSample,
    /// Withheld seqs, as runs: start and length.
    hidden: Vec<(u64, u64)>,
}

struct Export {
    request: Request,
    condition: Option<Condition>,
    earlier: BTreeMap<LogId, Earlier>,
    snapshot: Arc<Snapshot>,
    keys: Keys,
}

impl Export {
    fn run(&self, logs: &[SourceLog]) -> Result<Sealed, ExportError> {
        let folder = Temporary::beside(&self.request.out)?;
        let pack = folder.path.join("pack");
        let root = pack.join(PAYLOAD);
        for path in [&pack, &root] {
            DirBuilder::new().mode(0o700).create(path).map_err(io("create", path))?;
        }
        let manifest = self.payload(logs, &root, &folder.path)?;
        bag::close(&pack, &bag::entries(&root)?, &rfc3339(self.request.now_us)[..10])?;
        let path = root.join("manifest.json");
        let manifest_sha256 = hex::encode(sha256(&[&fs::read(&path).map_err(io("read", &path))?]));
        let out = self.request.out.clone();
        let mut made = pack;
        if let Some(stem) = out.extension().filter(|extension| *extension == "tar").and(out.file_stem()) {
            let tar = folder.path.join("pack.tar");
            bag::pack(&made, &stem.to_string_lossy(), &tar)?;
            made = tar;
        }
        let exported = Exported { manifest, manifest_sha256, notices: Vec::new() };
        Ok(Sealed { exported, _folder: folder, made, out })
    }

    /// Everything below `data/`.
    fn payload(&self, logs: &[SourceLog], root: &Path, scratch: &Path) -> Result<Manifest, ExportError> {
        let period = (self.request.from_us, self.request.to_us);
        let mut access = AccessLog::create(&root.join("access.jsonl"), period)?;
        let (mut entries, mut samples, mut hidden) = (Vec::new(), Vec::new(), BTreeMap::new());
        for log in logs {
            let done = self.log(log, root, scratch, &mut access)?;
            hidden.insert(done.entry.log.clone(), done.hidden);
            entries.push(done.entry);
            samples.push(done.sample);
        }
        access.finish()?;
        let sample = Sample { version: 1, nonce: self.request.nonce.clone(), logs: samples };
        write(root, "sample/population.json", &serde_json::to_vec_pretty(&sample)?)?;
        let is_hidden = |log: &str, seq: u64| {
            let runs = hidden.get(log).map_or(&[][..], Vec::as_slice);
            runs.partition_point(|(start, _)| *start <= seq)
                .checked_sub(1)
                .and_then(|at| runs.get(at))
                .is_some_and(|(start, length)| seq - start < *length)
        };
        let withheld = alerts::write(&self.request.dir.join("trail.db"), &root.join("alerts"), period, is_hidden)?;
        self.incidents(root, &withheld)?;
        write(root, "policy", policy(logs, self.request.policy.as_deref()).as_bytes())?;
        for (name, bytes) in FOR_THE_READER {
            write(root, name, bytes)?;
        }
        derived::write(root, &self.snapshot, &self.request, &entries)?;
        self.manifest(root, entries, withheld.len() as u64)
    }

    fn log(
        &self,
        log: &SourceLog,
        root: &Path,
        scratch: &Path,
        access: &mut AccessLog,
    ) -> Result<LogDone, ExportError> {
        let checkpoint = &log.checkpoint;
        let (id, size) = (checkpoint.log_id(), checkpoint.size);
        let period = (self.request.from_us, self.request.to_us);
        // Times of imported events are in no order: no range of seqs holds a period of them.
        let range = bracket(&self.snapshot, id, size, if log.imported { (0, u64::MAX) } else { period })?;
        let job = Job {
            snapshot: &self.snapshot,
            log: id,
            size,
            range,
            earlier: self.earlier.get(&id).map(|earlier| earlier.checkpoint.size),
            population: (!log.imported).then_some(period),
            condition: self.condition.as_ref(),
            ocsf: self.request.ocsf,
            root,
            scratch,
        };
        let passed = job.run(access).map_err(|source| ExportError::Pass { log: checkpoint.origin.clone(), source })?;
        if passed.root != checkpoint.root {
            return Err(ExportError::Root(checkpoint.origin.clone()));
        }
        if let Some(earlier) = self.earlier.get(&id) {
            earlier.prove(root, size, &passed)?;
        }
        let folder = format!("logs/{id}");
        write(root, &format!("{folder}/checkpoint"), log.note.as_bytes())?;
        let lines: String = passed.proof.hashes.iter().map(|hash| format!("{}\n", BASE64.encode(hash))).collect();
        write(root, &format!("{folder}/range-proof"), lines.as_bytes())?;
        let sample = self.sample(log, root, &passed)?;
        let Written { first, last, counts, erased, withheld, hidden, cloudtrail, log_files, parquet, .. } =
            passed.written;
        let (time_first, time_last) = (first.map_or(0, |leaf| leaf.time_us), last.map_or(0, |leaf| leaf.time_us));
        let id = id.to_string();
        let digests = DigestLog { root, log8: &id[..8], checkpoint: &log.note, key: &self.keys.digest };
        let digests = digests.write(&log_files, time_first, time_last)?;
        let entry = LogEntry {
            log: id,
            origin: checkpoint.origin.clone(),
            vkey: log.vkey.to_string(),
            imported: log.imported,
            first: range.first,
            last: range.last,
            size,
            root: checkpoint.root.to_string(),
            time_first,
            time_last,
            counts,
            withheld,
            erased,
            cloudtrail,
            digests,
            parquet,
        };
        Ok(LogDone { entry, sample, hidden })
    }

    /// Draws the sample and writes a proof of each record in it.
    fn sample(&self, log: &SourceLog, root: &Path, passed: &Passed) -> Result<LogSample, ExportError> {
        let id = log.checkpoint.log_id();
        let seed = seed(&log.note, &self.request.nonce);
        let sample = passed.written.population.draw(&id.to_string(), seed, self.request.sample);
        let drawn: BTreeSet<u64> = sample.drawn.iter().copied().collect();
        let mut leaves = LeavesReader::open(&root.join(format!("logs/{id}/leaves.gz")))?;
        while let Some(Entry { leaf, bytes, .. }) = leaves.next()? {
            if !drawn.contains(&leaf.seq) {
                continue;
            }
            let size = log.checkpoint.size;
            let proof = passed.tree.inclusion_proof(leaf.seq, size, |block| passed.hashes.block(block));
            let proof = proof.map_err(|error| ExportError::Proof(Box::new(error)))?;
            let text = TlogProof { leaf: bytes, index: leaf.seq, proof, note: log.note.clone() }.to_string();
            write(root, &format!("sample/{id}/{}.tlog-proof", leaf.seq), text.as_bytes())?;
        }
        Ok(sample)
    }

    fn incidents(&self, root: &Path, withheld: &BTreeSet<String>) -> Result<(), ExportError> {
        let shows_withheld = |incident: &serde_json::Value| {
            let alerts = incident.get("alerts").and_then(serde_json::Value::as_array);
            let ids = alerts.into_iter().flatten().filter_map(|alert| alert.get("alert_id")?.as_str());
            ids.into_iter().any(|id| withheld.contains(id))
        };
        let kept = self.request.incidents.iter().filter(|incident| !shows_withheld(incident));
        let lines: String = kept.map(|incident| format!("{incident}\n")).collect();
        Ok(write(root, "alerts/incidents.jsonl", lines.as_bytes())?)
    }

    fn manifest(&self, root: &Path, logs: Vec<LogEntry>, alerts_withheld: u64) -> Result<Manifest, ExportError> {
        let request = &self.request;
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            tool: request.tool.clone(),
            created_at: rfc3339(request.now_us),
            exported_by: request.exported_by.clone(),
            period: request.period(),
            control_set: request.control_set.clone(),
            redaction: request.redaction.as_ref().map(|redaction| RedactionNote {
                r#where: redaction.condition.clone(),
                reason: redaction.reason.clone(),
            }),
            alerts_withheld,
            unrecorded: request.unrecorded.clone(),
            evidence_vkey: self.keys.pack.verify_key().to_string(),
            digest_keys: vec![DigestKeyEntry {
                fingerprint: self.keys.digest.fingerprint(),
                public_key: BASE64.encode(self.keys.digest.public_der()),
            }],
            logs,
            files: bag::entries(root)?,
        };
        let bytes = serde_json::to_vec_pretty(&manifest)?;
        write(root, "manifest.json", &bytes)?;
        write(root, "manifest.note", manifest::sign(&bytes, &self.keys.pack).as_bytes())?;
        Ok(manifest)
    }
}

/// The logs' keys and the node's witnesses as a tlog-policy.
fn policy(logs: &[SourceLog], node: Option<&str>) -> String {
    let node = node.unwrap_or("quorum none\n");
    let named = TrustPolicy::parse(node.as_bytes()).map(|policy| policy.logs().to_vec()).unwrap_or_default();
    let missing = logs.iter().filter(|log| !named.contains(&log.vkey));
    let lines: String = missing.map(|log| format!("log {}\n", log.vkey)).collect();
    format!("{lines}{node}")
}

/// Writes a file below the pack's payload.
pub(super) fn write(root: &Path, name: &str, bytes: &[u8]) -> Result<(), IoError> {
    let path = root.join(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
    }
    fs::write(&path, bytes).map_err(io("write", &path))
}

/// A folder beside the pack, removed with what is left in it.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(out: &Path) -> Result<Self, IoError> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = out.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).map_err(io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "temporary folder of an export is left behind");
        }
    }
}
