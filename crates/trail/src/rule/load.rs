//! Loads a folder of rules: all of them, or none with every problem named.
//!
//! `<dir>/<pack>/<id>.sql` are rules, `<dir>/fixtures/*.json` what their tests start from, `<dir>/playbooks/` the
//! responder's, `<dir>/params.toml` the site's values: one table per rule id. A set with any problem is refused whole,
//! so that a typing error can never silence one rule of a running set.

use super::exception::{self, Exception};
use super::file::{self, Header, Overrides, Problem, RuleFile, RuleKind};
use super::lower::{self, Lowered};
use super::posture;
use super::test;
use crate::query::functions::register_site;
use crate::query::functions::site::Site;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use keytrail_kms::chain::leaf::sha256;
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
const OTHER_FOLDERS: [&str; 3] = [EXCEPTIONS, "fixtures", "playbooks"];

/// Folder of exceptions.
const EXCEPTIONS: &str = "exceptions";

/// Most exceptions in a set, each judged for every finding of its rules.
const EXCEPTIONS_MAX: usize = 1_000;

/// Largest exception in bytes.
const EXCEPTION_BYTES_MAX: u64 = 16 * 1024;

/// File with the site's values.
const PARAMS_FILE: &str = "params.toml";

/// Its section that is about no rule.
const SITE: &str = "site";

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

    /// Under what its state is kept over restarts and changes of the set: its hash; for kinds that learn only what the
    /// learning depends on, so that a new threshold or a better text does not cost weeks of it.
    pub(crate) fn state_key(&self) -> String {
        let (header, sql) = (self.header(), &self.file.sql);
        let learned = match (&header.first_seen, &self.file.baseline) {
            (Some(seen), _) => format!("{:?} {:?} {:?}", seen.keys, seen.per, seen.returning),
            (_, Some(base)) => format!("{} {} {}", base.bucket_us, base.history_us, self.baseline_column()),
            _ => return self.hash().to_owned(),
        };
        let parts = format!("learned v1\n{}\n{:?}\n{learned}\n{sql}", header.id, header.group_key);
        hex::encode(sha256(&[parts.as_bytes()]))
    }

    fn baseline_column(&self) -> &str {
        self.header().baseline.as_ref().map_or("", |baseline| &baseline.column)
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
    pub(crate) site: Site,
    pub(crate) exceptions: Vec<Arc<Exception>>,
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

/// Path below the rules folder and text of rules and fixtures whose tests passed together, as when a command was built that
/// ships them. Hundreds of tests take seconds, which every start would pay for finding out the same.
pub type TestedFiles = &'static [(&'static str, &'static str)];

impl RuleSet {
    /// Reads, checks and lowers every rule below `dir`. Runs no tests: see [`RuleSet::load_tested`].
    pub fn load(dir: &Path) -> Result<Self, RuleSetError> {
        Self::load_by(Loading { dir, site_values: true, problems: Vec::new() })
    }

    /// The same with what the files say in place of the site's values: what the rules' own tests are about.
    pub fn as_written(dir: &Path) -> Result<Self, RuleSetError> {
        Self::load_by(Loading { dir, site_values: false, problems: Vec::new() })
    }

    fn load_by(mut loading: Loading<'_>) -> Result<Self, RuleSetError> {
        let set = loading.run();
        let Loading { mut problems, .. } = loading;
        if problems.is_empty() {
            return Ok(set);
        }
        problems.sort();
        problems.truncate(PROBLEMS_MAX);
        Err(RuleSetError { problems })
    }

    /// [`RuleSet::load`], then every rule's own tests: a rule whose tests fail does not run. They run on the rules as written,
    /// whatever the site's values. A folder that holds nothing but files of `known`, unchanged, has passed them before.
    pub fn load_tested(dir: &Path, known: TestedFiles) -> Result<Self, RuleSetError> {
        let set = Self::load(dir)?;
        if set.is_of(known) {
            return Ok(set);
        }
        let written = Self::as_written(dir)?;
        let failed = test::run(&written, |_| true).into_iter().filter_map(|result| {
            let reason = result.outcome.err()?;
            Some(Problem { file: result.file, line: result.line, reason: format!("test {:?}: {reason}", result.name) })
        });
        let mut problems: Vec<Problem> = failed.collect();
        problems.extend(written.too_wide());
        if problems.is_empty() { Ok(set) } else { Err(RuleSetError { problems }) }
    }

    /// Whether every rule and fixture is one of `known`, and no exception changes what they do.
    fn is_of(&self, known: TestedFiles) -> bool {
        let text = |path: &str| known.iter().find(|(name, _)| *name == path).map(|(_, text)| *text);
        let fixture = |name: &str| serde_json::from_str(text(&format!("fixtures/{name}.json"))?).ok();
        self.exceptions.is_empty()
            && self.rules.iter().all(|rule| text(&rule.file.path) == Some(rule.file.text.as_str()))
            && self.fixtures.iter().all(|(name, value)| fixture(name).as_ref() == Some(value))
    }

    /// The exceptions, in order of file.
    pub fn exceptions(&self) -> &[Arc<Exception>] {
        &self.exceptions
    }

    /// The rules of a folder, or the one in a file, without site values then.
    pub fn load_path(path: &Path) -> Result<Self, RuleSetError> {
        if path.is_dir() {
            return Self::load(path);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let dir = path.parent().unwrap_or(path);
        let mut loading = Loading { dir, site_values: false, problems: Vec::new() };
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
            return Ok(Self { rules, site: Site::default(), exceptions: Vec::new(), fixtures: BTreeMap::new() });
        }
        Err(RuleSetError { problems: loading.problems })
    }

    /// These rules of the set, with its fixtures.
    pub fn only(&self, keep: impl Fn(&Rule) -> bool) -> Self {
        let rules = self.rules.iter().filter(|rule| keep(rule)).cloned().collect();
        Self { rules, site: self.site.clone(), exceptions: self.exceptions.clone(), fixtures: self.fixtures.clone() }
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

/// Plans changed files of a set's rules as the set's own were: with whom its site trusts.
pub(super) struct Planner<'a> {
    session: SessionContext,
    site: &'a Site,
}

impl<'a> Planner<'a> {
    pub(super) fn new(set: &'a RuleSet) -> Result<Self, DataFusionError> {
        let session = lower::session()?;
        register_site(&session, &set.site);
        Ok(Self { session, site: &set.site })
    }

    /// The rule; None for a file that would not load.
    pub(super) fn plan(&self, mut file: RuleFile) -> Option<Rule> {
        let text = file.text.clone();
        file.ask_site(text.as_bytes(), self.site);
        let lowered = lower_any(&self.session, &file, self.site).ok()?;
        Some(Rule { file, lowered })
    }
}

fn lower_alone(parsed: RuleFile) -> Result<Rule, Problem> {
    let problem = |line, reason: String| Problem { file: parsed.path.clone(), line, reason };
    let session = lower::session().map_err(|error| problem(0, format!("planner cannot start: {error}")))?;
    match lower_any(&session, &parsed, &Site::default()) {
        Ok(lowered) => Ok(Rule { file: parsed, lowered }),
        Err((line, reason)) => Err(problem(parsed.sql_line + line.unwrap_or(1) - 1, reason)),
    }
}

fn lower_any(session: &SessionContext, parsed: &RuleFile, site: &Site) -> Result<Lowered, lower::Refusal> {
    match parsed.header.kind {
        RuleKind::Posture => posture::lower(parsed, site),
        _ => lower::lower(session, parsed),
    }
}

struct Loading<'a> {
    dir: &'a Path,
    site_values: bool,
    problems: Vec<Problem>,
}

impl Loading<'_> {
    fn run(&mut self) -> RuleSet {
        let fixtures = self.fixtures();
        let mut params = self.params();
        let site = self.site(params.remove(SITE).unwrap_or_default());
        let files = self.rule_files();
        let session = match lower::session() {
            Ok(session) => session,
            Err(error) => {
                self.problem("", 0, format!("planner cannot start: {error}"));
                return RuleSet { rules: Vec::new(), site, exceptions: Vec::new(), fixtures };
            }
        };
        register_site(&session, &site);
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        for path in files {
            let relative = self.relative(&path);
            let Some(bytes) = self.read(&path, &relative, file::FILE_BYTES_MAX as u64) else { continue };
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let overrides = params.remove(stem).unwrap_or_default();
            let mut parsed = match file::parse(&relative, &bytes, &overrides) {
                Ok(parsed) => parsed,
                Err(problems) => {
                    self.problems.extend(problems);
                    continue;
                }
            };
            parsed.ask_site(&bytes, &site);
            if let Some(other) = rules.iter().find(|rule| rule.id() == parsed.header.id) {
                let reason = format!("id {:?} is also in {}", parsed.header.id, other.file.path);
                self.problem(&relative, 0, reason);
            }
            self.check_fixtures(&parsed, &fixtures);
            match lower_any(&session, &parsed, &site) {
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
        let exceptions = self.exceptions(&rules, &session);
        RuleSet { rules, site, exceptions, fixtures }
    }

    fn exceptions(&mut self, rules: &[Arc<Rule>], session: &SessionContext) -> Vec<Arc<Exception>> {
        let dir = self.dir.join(EXCEPTIONS);
        let paths = if dir.is_dir() { self.entries(&dir) } else { Vec::new() };
        let mut exceptions = Vec::new();
        for path in paths.into_iter().filter(|path| has_extension(path, "toml")) {
            let relative = self.relative(&path);
            if exceptions.len() == EXCEPTIONS_MAX {
                self.problem(&relative, 0, format!("more than {EXCEPTIONS_MAX} exceptions"));
                break;
            }
            let Some(bytes) = self.read(&path, &relative, EXCEPTION_BYTES_MAX) else { continue };
            match exception::parse(&relative, &bytes, rules, session) {
                Ok(exception) => exceptions.push(Arc::new(exception)),
                Err(problem) => self.problems.push(problem),
            }
        }
        exceptions
    }

    fn site(&mut self, table: Overrides) -> Site {
        Site::of_table(&table).unwrap_or_else(|reason| {
            self.problem(PARAMS_FILE, 0, reason);
            Site::default()
        })
    }

    fn check_fixtures(&mut self, rule: &RuleFile, fixtures: &BTreeMap<String, Value>) {
        for test in &rule.header.test {
            let given = test.given.parts().iter().map(|part| &part.fixture);
            for fixture in given.chain(test.histories().iter().map(|history| &history.fixture)) {
                if !fixtures.contains_key(fixture) {
                    let reason = format!("test {:?}: no fixture {fixture:?}", test.name);
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
        if !self.site_values || !path.exists() {
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
pub(super) mod tests {
    use super::*;
    use std::fs;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
    }

    pub(in crate::rule) fn copy(from: &Path, to: &Path) {
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
        let set = RuleSet::load_tested(&shipped(), &[]).unwrap_or_else(|error| panic!("{error}"));
        for pack in ["kms", "meta"] {
            for file in fs::read_dir(shipped().join(pack)).unwrap() {
                let path = file.unwrap().path();
                let id = path.file_stem().unwrap().to_str().unwrap();
                assert!(set.rule(id).is_some(), "{id}");
            }
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
        edit("kms/denied-burst.sql", "version = ", "version = x");
        edit("kms/decrypt-spike.sql", "fixture = \"decrypt\", repeat = 621", "fixture = \"nothing\", repeat = 621");
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
        fs::write(dir.path().join("params.toml"), "[decrypt-spike]\nk = 4\n").unwrap();
        let after = RuleSet::load(dir.path()).unwrap();
        assert_ne!(before.rule("decrypt-spike").unwrap().hash(), after.rule("decrypt-spike").unwrap().hash());
        assert_eq!(before.rule("many-contexts").unwrap().hash(), after.rule("many-contexts").unwrap().hash());
        // The rule's tests are about its own values.
        let tested = RuleSet::load_tested(dir.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tested.hashes(), after.hashes());
    }

    #[test]
    fn what_the_site_says_is_in_the_hash_of_the_rules_that_ask() {
        let dir = tempfile::tempdir().unwrap();
        copy(&shipped(), dir.path());
        let path = dir.path().join("kms/grant-to-self.sql");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("WHERE ", "WHERE NOT coalesce(is_trusted_account(account), false) AND "))
            .unwrap();
        // In a step, too.
        let path = dir.path().join("kms/resurrected-key-used.sql");
        let text = fs::read_to_string(&path).unwrap();
        let asking = text.replace(
            "event_name = 'EnableKey'",
            "event_name = 'EnableKey' AND is_trusted_account(account) IS NOT TRUE",
        );
        assert_ne!(text, asking);
        fs::write(&path, asking).unwrap();
        let before = RuleSet::load(dir.path()).unwrap();
        fs::write(dir.path().join("params.toml"), "[site]\ntrusted_accounts = [\"444455556666\"]\n").unwrap();
        let after = RuleSet::load_tested(dir.path(), &[]).unwrap();
        let hash = |set: &RuleSet, id: &str| set.rule(id).unwrap().hash().to_owned();
        assert_ne!(hash(&before, "grant-to-self"), hash(&after, "grant-to-self"));
        assert_ne!(hash(&before, "resurrected-key-used"), hash(&after, "resurrected-key-used"));
        assert_eq!(hash(&before, "grant-broad"), hash(&after, "grant-broad"));
        // The fixtures' own account trusted: tests do not know of it.
        fs::write(dir.path().join("params.toml"), "[site]\ntrusted_accounts = [\"111122223333\"]\n").unwrap();
        assert!(RuleSet::load_tested(dir.path(), &[]).is_ok());
        for wrong in ["trusted_accounts = [\"12\"]", "trusted_accounts = 1", "other = 1"] {
            fs::write(dir.path().join("params.toml"), format!("[site]\n{wrong}\n")).unwrap();
            let error = RuleSet::load(dir.path()).unwrap_err();
            assert!(error.problems[0].reason.contains("site"), "{error}");
        }
    }

    #[test]
    fn an_exception_is_loaded_with_the_set_and_refused_when_it_is_too_wide() {
        let dir = tempfile::tempdir().unwrap();
        copy(&shipped(), dir.path());
        fs::create_dir_all(dir.path().join("exceptions")).unwrap();
        let file = |rules: &str, predicate: &str, expires: &str| {
            format!(
                "rules = [\"{rules}\"]\npredicate = \"{predicate}\"\nowner = \"sec\"\nticket = \"T-1\"\nreason = \"r\"\n\
                 created = \"2026-01-01T00:00:00Z\"\nexpires = \"{expires}\"\n"
            )
        };
        let load = |text: &str| {
            fs::write(dir.path().join("exceptions/deploy.toml"), text).unwrap();
            RuleSet::load_tested(dir.path(), &[]).map_err(|error| error.to_string())
        };
        let narrow = "principal_arn = 'arn:aws:iam::111122223333:user/deploy'";
        let set = load(&file("key-disabled", narrow, "2026-03-01T00:00:00Z")).unwrap();
        assert_eq!(set.exceptions()[0].id, "deploy");
        for (text, reason) in [
            (file("key-disabled", "true", "2026-03-01T00:00:00Z"), "would mute"),
            (file("key-disabled", narrow, "2026-04-02T00:00:00Z"), "90 days"),
            (file("key-disabled", narrow, "2025-12-01T00:00:00Z"), "90 days"),
            (file("no-such", narrow, "2026-03-01T00:00:00Z"), "no rule"),
            (file("audit-chain-gap", "true", "2026-03-01T00:00:00Z"), "no exceptions"),
            (file("key-disabled", "nothing = 1", "2026-03-01T00:00:00Z"), "nothing"),
            (file("key-disabled", "now() > event_time", "2026-03-01T00:00:00Z"), "clock"),
            (file("key-disabled", "principal_arn", "2026-03-01T00:00:00Z"), "truth value"),
            (file("key-disabled", narrow, "2026-03-01T00:00:00Z").replace("sec", ""), "owner"),
            ("owner = 1".to_owned(), "exceptions/deploy.toml"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn an_empty_folder_is_no_rule_set() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RuleSet::load(dir.path()).is_err());
        assert!(RuleSet::load(&dir.path().join("missing")).is_err());
    }
}
