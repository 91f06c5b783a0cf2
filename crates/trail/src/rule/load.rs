//! Loads a folder of rules: all of them, or none with every problem named.
//!
//! `<dir>/<pack>/<id>.sql` are rules, `<dir>/fixtures/*.json` what their tests start from, `<dir>/playbooks/` the
//! responder's, `<dir>/params.toml` the site's values: one table per rule id. A set with any problem is refused whole,
//! so that a typing error can never silence one rule of a running set.

use super::file::{self, Header, Overrides, Problem, RuleFile, RuleKind};
use super::lower::{self, Lowered};
use super::test;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most rules in a set.
const RULES_MAX: usize = 1024;

/// Most problems reported; whoever has more fixes these first.
const PROBLEMS_MAX: usize = 200;

/// Folders below the rules folder that hold no rules.
const OTHER_FOLDERS: [&str; 2] = ["fixtures", "playbooks"];

/// File with the site's values.
const PARAMS_FILE: &str = "params.toml";

/// Largest fixture in bytes.
const FIXTURE_BYTES_MAX: u64 = 64 * 1024;

/// One loaded rule.
#[derive(Debug)]
pub struct Rule {
    /// The file it came from.
    pub file: RuleFile,
    pub(crate) lowered: Lowered,
}

impl Rule {
    /// The header as written.
    pub fn header(&self) -> &Header {
        &self.file.header
    }

    /// The rule's id.
    pub fn id(&self) -> &str {
        &self.file.header.id
    }

    /// The title, or the id.
    pub fn title(&self) -> &str {
        self.file.header.title.as_deref().unwrap_or(&self.file.header.id)
    }

    /// SHA-256 over file and effective params, hex.
    pub fn hash(&self) -> &str {
        &self.file.hash
    }

    /// When it looks.
    pub fn kind(&self) -> RuleKind {
        self.file.header.kind
    }
}

/// A set of rules that was accepted whole, with the fixtures of their tests.
#[derive(Debug)]
pub struct RuleSet {
    pub(crate) rules: Vec<Arc<Rule>>,
    pub(crate) fixtures: BTreeMap<String, Value>,
}

/// Why a set was refused: every problem found.
#[derive(Debug)]
pub struct RuleSetError {
    /// In order of file and line.
    pub problems: Vec<Problem>,
}

impl fmt::Display for RuleSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule set refused with {} problems", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
    }
}

impl std::error::Error for RuleSetError {}

impl RuleSet {
    /// Reads, checks and lowers every rule below `dir`. Runs no tests: see [`RuleSet::load_tested`].
    pub fn load(dir: &Path) -> Result<Self, RuleSetError> {
        let mut loading = Loading { dir, problems: Vec::new() };
        let set = loading.run();
        let Loading { mut problems, .. } = loading;
        if problems.is_empty() {
            return Ok(set);
        }
        problems.sort();
        problems.truncate(PROBLEMS_MAX);
        Err(RuleSetError { problems })
    }

    /// [`RuleSet::load`], then every rule's own tests: a rule whose tests fail does not run.
    pub fn load_tested(dir: &Path) -> Result<Self, RuleSetError> {
        let set = Self::load(dir)?;
        let failed = test::run(&set).into_iter().filter_map(|result| {
            let reason = result.outcome.err()?;
            Some(Problem { file: result.file, line: result.line, reason: format!("test {:?}: {reason}", result.name) })
        });
        let problems: Vec<Problem> = failed.collect();
        if problems.is_empty() { Ok(set) } else { Err(RuleSetError { problems }) }
    }

    /// The rules of a folder, or the one in a file, without site values then.
    pub fn load_path(path: &Path) -> Result<Self, RuleSetError> {
        if path.is_dir() {
            return Self::load(path);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let dir = path.parent().unwrap_or(path);
        let mut loading = Loading { dir, problems: Vec::new() };
        let bytes = loading.read(path, &name, file::FILE_BYTES_MAX as u64);
        let mut rules = Vec::new();
        match bytes.map(|bytes| file::parse(&name, &bytes, &Overrides::new())) {
            Some(Ok(parsed)) => match lower_alone(parsed) {
                Ok(rule) => rules.push(Arc::new(rule)),
                Err(problem) => loading.problems.push(problem),
            },
            Some(Err(problems)) => loading.problems.extend(problems),
            None => {}
        }
        if loading.problems.is_empty() {
            return Ok(Self { rules, fixtures: BTreeMap::new() });
        }
        Err(RuleSetError { problems: loading.problems })
    }

    /// These rules of the set, with its fixtures.
    pub fn only(&self, keep: impl Fn(&Rule) -> bool) -> Self {
        let rules = self.rules.iter().filter(|rule| keep(rule)).cloned().collect();
        Self { rules, fixtures: self.fixtures.clone() }
    }

    /// The rules, in order of file.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Rule id to hash: what the responder is told to accept alerts of.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.rules.iter().map(|rule| (rule.id().to_owned(), rule.hash().to_owned())).collect()
    }

    /// The rule with this id.
    pub fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id() == id)
    }
}

fn lower_alone(parsed: RuleFile) -> Result<Rule, Problem> {
    let problem = |line, reason: String| Problem { file: parsed.path.clone(), line, reason };
    let session = lower::session().map_err(|error| problem(0, format!("planner cannot start: {error}")))?;
    match lower::lower(&session, &parsed) {
        Ok(lowered) => Ok(Rule { file: parsed, lowered }),
        Err((line, reason)) => Err(problem(parsed.sql_line + line.unwrap_or(1) - 1, reason)),
    }
}

struct Loading<'a> {
    dir: &'a Path,
    problems: Vec<Problem>,
}

impl Loading<'_> {
    fn run(&mut self) -> RuleSet {
        let fixtures = self.fixtures();
        let mut params = self.params();
        let files = self.rule_files();
        let session = match lower::session() {
            Ok(session) => session,
            Err(error) => {
                self.problem("", 0, format!("planner cannot start: {error}"));
                return RuleSet { rules: Vec::new(), fixtures };
            }
        };
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        for path in files {
            let relative = self.relative(&path);
            let Some(bytes) = self.read(&path, &relative, file::FILE_BYTES_MAX as u64) else { continue };
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let overrides = params.remove(stem).unwrap_or_default();
            let parsed = match file::parse(&relative, &bytes, &overrides) {
                Ok(parsed) => parsed,
                Err(problems) => {
                    self.problems.extend(problems);
                    continue;
                }
            };
            if let Some(other) = rules.iter().find(|rule| rule.id() == parsed.header.id) {
                let reason = format!("id {:?} is also in {}", parsed.header.id, other.file.path);
                self.problem(&relative, 0, reason);
            }
            self.check_fixtures(&parsed, &fixtures);
            match lower::lower(&session, &parsed) {
                Ok(lowered) => rules.push(Arc::new(Rule { file: parsed, lowered })),
                Err((line, reason)) => self.problem(&relative, parsed.sql_line + line.unwrap_or(1) - 1, reason),
            }
        }
        for id in params.keys() {
            self.problem(PARAMS_FILE, 0, format!("no rule {id:?}"));
        }
        if self.problems.is_empty() {
            self.check_silent(&rules);
        }
        RuleSet { rules, fixtures }
    }

    fn check_fixtures(&mut self, rule: &RuleFile, fixtures: &BTreeMap<String, Value>) {
        for test in &rule.header.test {
            for given in test.given.parts() {
                if !fixtures.contains_key(&given.fixture) {
                    let reason = format!("test {:?}: no fixture {:?}", test.name, given.fixture);
                    self.problem(&rule.path, 0, reason);
                }
            }
        }
    }

    fn check_silent(&mut self, rules: &[Arc<Rule>]) {
        for rule in rules {
            for id in rule.header().test.iter().flat_map(|test| &test.expect.silent) {
                if !rules.iter().any(|other| other.id() == id) {
                    self.problem(&rule.file.path, 0, format!("test expects unknown rule {id:?} to be silent"));
                }
            }
        }
    }

    fn rule_files(&mut self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for pack in self.entries(self.dir) {
            let name = pack.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if pack.is_dir() && !OTHER_FOLDERS.contains(&name.as_str()) {
                files.extend(self.entries(&pack).into_iter().filter(|path| has_extension(path, "sql")));
            }
        }
        if files.is_empty() {
            self.problem("", 0, "no rules found".into());
        }
        if files.len() > RULES_MAX {
            self.problem("", 0, format!("{} rules, the limit is {RULES_MAX}", files.len()));
            files.truncate(RULES_MAX);
        }
        files
    }

    fn fixtures(&mut self) -> BTreeMap<String, Value> {
        let dir = self.dir.join("fixtures");
        let mut fixtures = BTreeMap::new();
        let paths = if dir.is_dir() { self.entries(&dir) } else { Vec::new() };
        for path in paths.into_iter().filter(|path| has_extension(path, "json")) {
            let relative = self.relative(&path);
            let Some(bytes) = self.read(&path, &relative, FIXTURE_BYTES_MAX) else { continue };
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) if value.is_object() => drop(fixtures.insert(stem.to_owned(), value)),
                Ok(_) => self.problem(&relative, 1, "fixture is not a JSON object".into()),
                Err(error) => self.problem(&relative, error.line(), format!("fixture is not JSON: {error}")),
            }
        }
        fixtures
    }

    fn params(&mut self) -> BTreeMap<String, Overrides> {
        let path = self.dir.join(PARAMS_FILE);
        if !path.exists() {
            return BTreeMap::new();
        }
        let Some(bytes) = self.read(&path, PARAMS_FILE, FIXTURE_BYTES_MAX) else { return BTreeMap::new() };
        let text = String::from_utf8_lossy(&bytes);
        toml::from_str(&text).unwrap_or_else(|error: toml::de::Error| {
            let offset = error.span().map_or(0, |span| span.start);
            let line = text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1;
            self.problem(PARAMS_FILE, line, error.message().replace('\n', ", "));
            BTreeMap::new()
        })
    }

    fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(dir).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()
        });
        match listed {
            Ok(mut paths) => {
                paths.sort();
                paths
            }
            Err(error) => {
                let relative = self.relative(dir);
                self.problem(&relative, 0, format!("folder cannot be read: {error}"));
                Vec::new()
            }
        }
    }

    fn read(&mut self, path: &Path, relative: &str, bytes_max: u64) -> Option<Vec<u8>> {
        let read = std::fs::metadata(path).and_then(|metadata| {
            if metadata.len() > bytes_max {
                return Err(std::io::Error::other(format!("{} bytes, the limit is {bytes_max}", metadata.len())));
            }
            std::fs::read(path)
        });
        read.map_err(|error| self.problem(relative, 0, format!("file cannot be read: {error}"))).ok()
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.dir).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn problem(&mut self, file: &str, line: usize, reason: String) {
        self.problems.push(Problem { file: file.to_owned(), line, reason });
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    #[test]
    fn the_shipped_rules_load_and_their_tests_pass() {
        let set = RuleSet::load_tested(&shipped()).unwrap_or_else(|error| panic!("{error}"));
        for id in [
            "audit-chain-gap",
            "break-glass-used",
            "decrypt-spike",
            "denied-burst",
            "disabled-key-used",
            "grant-broad",
            "grant-to-self",
            "grants-ended-en-masse",
            "key-deletion-scheduled",
            "key-disabled",
            "key-policy-public",
            "log-erased",
            "many-contexts",
            "mfa-less-destructive",
            "responder-without-action",
        ] {
            assert!(set.rule(id).is_some(), "{id}");
        }
    }

    #[test]
    fn a_set_with_any_problem_is_refused_and_all_are_named() {
        let dir = tempfile::tempdir().unwrap();
        copy(&shipped(), dir.path());
        let edit = |file: &str, from: &str, to: &str| {
            let path = dir.path().join(file);
            fs::write(&path, fs::read_to_string(&path).unwrap().replace(from, to)).unwrap();
        };
        edit("kms/key-disabled.sql", "FROM events", "FROM event");
        edit("kms/denied-burst.sql", "version = 1", "version = \"one\"");
        edit("kms/decrypt-spike.sql", "fixture = \"decrypt\", repeat = 499", "fixture = \"nothing\", repeat = 499");
        fs::write(dir.path().join("params.toml"), "[many-contexts]\nlimits = 3\n[no-such-rule]\nx = 1\n").unwrap();
        let error = RuleSet::load(dir.path()).unwrap_err();
        let at = |file: &str| error.problems.iter().find(|problem| problem.file == file).cloned();
        assert!(at("kms/key-disabled.sql").unwrap().reason.contains("event"));
        assert_eq!(at("kms/denied-burst.sql").unwrap().line, 3);
        assert!(at("kms/decrypt-spike.sql").unwrap().reason.contains("no fixture"));
        assert!(at("kms/many-contexts.sql").unwrap().reason.contains("$limits"));
        assert!(at("params.toml").unwrap().reason.contains("no-such-rule"));
        assert_eq!(error.problems.len(), 5, "{error}");
    }

    #[test]
    fn a_site_value_changes_the_rule_and_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        copy(&shipped(), dir.path());
        let before = RuleSet::load(dir.path()).unwrap();
        fs::write(dir.path().join("params.toml"), "[decrypt-spike]\nlimit = 600\n").unwrap();
        let after = RuleSet::load(dir.path()).unwrap();
        assert_ne!(before.rule("decrypt-spike").unwrap().hash(), after.rule("decrypt-spike").unwrap().hash());
        assert_eq!(before.rule("many-contexts").unwrap().hash(), after.rule("many-contexts").unwrap().hash());
        let error = RuleSet::load_tested(dir.path()).unwrap_err();
        assert!(error.to_string().contains("0 alerts instead of 1"), "{error}");
    }

    #[test]
    fn an_empty_folder_is_no_rule_set() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RuleSet::load(dir.path()).is_err());
        assert!(RuleSet::load(&dir.path().join("missing")).is_err());
    }
}
