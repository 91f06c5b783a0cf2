//! Control files: a clause of a standard, the query that answers its question, and how the verdict comes.
//!
//! A file has the header of a rule file (TOML behind `-- `, between two `-- +++`). `controls/<set>/<clause>.sql` names a query
//! of `controls/queries/`, which several clauses share, and may change its params; `controls.toml` in the data folder has the
//! site's values. Resolved for a period, clause and query become one file of the pack, in which every value
//! stands where it is used: it runs elsewhere, too, and `rerun` runs that text, not what this build ships.

use super::shipped;
use crate::rule::file::{literal, split, substitute};
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Largest control file in bytes.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;

/// Why a control cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No set of that name.
    #[error("there is no control set {0}; there are {names}", names = shipped::SETS.join(", "))]
    UnknownSet(String),
    /// A file that is not what a control is.
    #[error("control file {file}: {reason}")]
    File {
        /// Its path below `controls/`.
        file: String,
        /// What is wrong, in one phrase.
        reason: String,
    },
    /// The site's values.
    #[error("site values: {0}")]
    Site(String),
}

/// A value of a param: whole numbers, truth values, lines of text, or lists of lines.
pub type Params = BTreeMap<String, toml::Value>;

/// The site's values by query: the file `controls.toml`.
#[derive(Clone, Debug, Default)]
pub struct Site(BTreeMap<String, Params>);

impl Site {
    /// Reads `[query]` tables; a query or param that is not known is an error, and so is a value of another type.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let site: BTreeMap<String, Params> =
            toml::from_str(text).map_err(|error| ControlError::Site(error.message().replace('\n', ", ")))?;
        let queries = queries()?;
        for (name, values) in &site {
            let Some((query, _)) = queries.get(name) else {
                return Err(ControlError::Site(format!("there is no query {name}")));
            };
            override_params(&mut query.params.clone(), values)
                .map_err(|why| ControlError::Site(format!("{name}: {why}")))?;
        }
        Ok(Self(site))
    }
}

/// A time range, Unix microseconds: from inclusive, to exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First microsecond.
    pub from_us: i64,
    /// The one after the last.
    pub to_us: i64,
}

impl Period {
    /// Start as packs write it.
    pub fn start(&self) -> String {
        text_of(self.from_us)
    }

    /// End as packs write it.
    pub fn end(&self) -> String {
        text_of(self.to_us)
    }
}

fn text_of(us: i64) -> String {
    DateTime::from_timestamp_micros(us).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Header of `controls/<set>/<clause>.sql`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    id: String,
    clause: String,
    title: String,
    question: String,
    query: String,
    #[serde(default)]
    params: Params,
}

type Queries = BTreeMap<String, (Query, String)>;

impl Clause {
    fn read(set: &str, name: &str, text: &str) -> Result<Self, ControlError> {
        let file = format!("{set}/{name}.sql");
        let (clause, body) = header::<Self>(&file, text)?;
        if clause.id != name || !body.trim().is_empty() {
            let reason = "id differs from the file's name, or SQL follows that belongs into a query".to_owned();
            return Err(ControlError::File { file, reason });
        }
        Ok(clause)
    }

    fn query_of<'a>(&self, set: &str, queries: &'a Queries) -> Result<&'a (Query, String), ControlError> {
        let none = || ControlError::File {
            file: format!("{set}/{}.sql", self.id),
            reason: format!("there is no query {}", self.query),
        };
        queries.get(&self.query).ok_or_else(none)
    }

    /// The query's defaults, then the site's values, then what makes the clause ask what it asks.
    fn params_of(&self, (query, _): &(Query, String), site: &Site) -> Result<Params, String> {
        let mut params = query.params.clone();
        if let Some(values) = site.0.get(&query.id) {
            override_params(&mut params, values)?;
        }
        override_params(&mut params, &self.params)?;
        Ok(params)
    }
}

/// Header of `controls/queries/<id>.sql`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    id: String,
    verdict: String,
    population_of: String,
    population: String,
    #[serde(default)]
    params: Params,
}

/// What a control is, as the header of its file in a pack says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name of its files.
    pub id: String,
    /// Standard and number of the clause.
    pub clause: String,
    /// What it is about, in our words.
    pub title: String,
    /// What is asked of the log.
    pub question: String,
    /// The query that answers.
    pub query: String,
    /// How the verdict comes.
    pub verdict: String,
    /// What is counted.
    pub population_of: String,
    /// Start of the period.
    pub from: String,
    /// End of the period.
    pub to: String,
    /// SQL that counts the population.
    pub population: String,
    /// Values that stand in the SQL.
    pub params: Params,
}

/// A control ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// The header.
    pub header: Header,
    /// One SELECT, whose first columns are `finding` (`ok`, `review` or `exception`) and `why`.
    pub sql: String,
}

impl Control {
    /// All controls of a set for a period, by clause.
    pub fn of_set(set: &str, site: &Site, period: &Period) -> Result<Vec<Self>, ControlError> {
        if !shipped::SETS.contains(&set) {
            return Err(ControlError::UnknownSet(set.to_owned()));
        }
        let queries = queries()?;
        let resolve = |(name, text): (&str, &str)| {
            let clause = Clause::read(set, name, text)?;
            let query = clause.query_of(set, &queries)?;
            let params = clause.params_of(query, site);
            let resolved = params.and_then(|params| Self::resolve(&clause, query, params, period));
            resolved.map_err(|reason| ControlError::File { file: format!("{set}/{name}.sql"), reason })
        };
        let mut controls = shipped::folder(set).map(resolve).collect::<Result<Vec<_>, _>>()?;
        controls.sort_by(|a, b| natural(&a.header.id).cmp(&natural(&b.header.id)));
        Ok(controls)
    }

    /// A clause as this build asks it with these params; `None` if it has no such clause.
    pub(super) fn shipped(set: &str, id: &str, params: &Params, period: &Period) -> Result<Option<Self>, ControlError> {
        let Some((name, text)) = shipped::folder(set).find(|(name, _)| *name == id) else { return Ok(None) };
        let queries = queries()?;
        let clause = Clause::read(set, name, text)?;
        let query = clause.query_of(set, &queries)?;
        Ok(Self::resolve(&clause, query, params.clone(), period).ok())
    }

    fn resolve(
        clause: &Clause,
        (query, sql): &(Query, String),
        params: Params,
        period: &Period,
    ) -> Result<Self, String> {
        let literals = literals(&params, period)?;
        let mut used = vec![false; literals.len()];
        let mut put = |text: &str| {
            substitute(text, &literals, &mut used).map_err(|(line, reason)| format!("line {line}: {reason}"))
        };
        let (population, sql) = (put(&query.population)?, put(sql)?);
        // Titles of counted things name params like SQL does.
        let population_of = params.iter().fold(query.population_of.clone(), |text, (name, value)| {
            text.replace(&format!("${name}"), value.as_str().unwrap_or_default())
        });
        let Clause { id, clause, title, question, query: name, .. } = clause.clone();
        let header = Header {
            id,
            clause,
            title,
            question,
            query: name,
            verdict: query.verdict.clone(),
            population_of,
            from: period.start(),
            to: period.end(),
            population,
            params,
        };
        Ok(Self { header, sql })
    }

    /// The file of a pack.
    pub fn to_text(&self) -> String {
        // Strings, numbers and lists of strings always are TOML.
        let header = toml::to_string(&self.header).unwrap_or_default();
        let mut text = String::from("-- +++\n");
        for line in header.lines() {
            let _ = writeln!(text, "{}", format!("-- {line}").trim_end());
        }
        let _ = write!(text, "-- +++\n{}\n", self.sql.trim_end());
        text
    }

    /// Reads a file of a pack.
    pub fn parse(file: &str, text: &str) -> Result<Self, ControlError> {
        let (header, sql) = header::<Header>(file, text)?;
        Ok(Self { header, sql: sql.trim_end().to_owned() })
    }
}

/// All queries by id.
fn queries() -> Result<Queries, ControlError> {
    let read = |(name, text): (&str, &str)| {
        let path = format!("{}/{name}.sql", shipped::QUERIES);
        let (query, sql) = header::<Query>(&path, text)?;
        let wrong = |reason: &str| ControlError::File { file: path.clone(), reason: reason.to_owned() };
        if query.id != name {
            return Err(wrong("id differs from the file's name"));
        }
        Ok((query.id.clone(), (query, sql.trim_end().to_owned())))
    };
    shipped::folder(shipped::QUERIES).map(read).collect()
}

fn header<H: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<(H, String), ControlError> {
    let wrong = |reason: String| ControlError::File { file: file.to_owned(), reason };
    if text.len() > CONTROL_BYTES_MAX {
        return Err(wrong(format!("file has {} bytes, the limit is {CONTROL_BYTES_MAX}", text.len())));
    }
    let parts = split(text).map_err(|(line, reason)| wrong(format!("line {line}: {reason}")))?;
    let header = toml::from_str(&parts.toml).map_err(|error| wrong(error.message().replace('\n', ", ")))?;
    Ok((header, parts.sql))
}

fn override_params(params: &mut Params, values: &Params) -> Result<(), String> {
    for (name, value) in values {
        match params.get_mut(name) {
            Some(default) if default.same_type(value) => *default = value.clone(),
            Some(_) => return Err(format!("value of ${name} has another type")),
            None => return Err(format!("there is no param ${name}")),
        }
    }
    Ok(())
}

/// Params as SQL, with what every query may use of the period. A list `$l` comes with `$l_given`, whether it holds
/// anything, because IN of an empty list is not SQL.
fn literals(params: &Params, period: &Period) -> Result<Vec<(String, String)>, String> {
    let mut all = vec![
        ("from".to_owned(), format!("'{}'", period.start())),
        ("to".to_owned(), format!("'{}'", period.end())),
        ("from_us".to_owned(), period.from_us.to_string()),
        ("to_us".to_owned(), period.to_us.to_string()),
    ];
    for (name, value) in params {
        let none = || format!("param ${name} is not a number, a truth value, one line of text or a list of lines");
        match value {
            toml::Value::Array(items) => {
                let items: Option<Vec<String>> =
                    items.iter().map(|item| item.as_str().and_then(|_| literal(item))).collect();
                let items = items.ok_or_else(none)?;
                all.push((format!("{name}_given"), (!items.is_empty()).to_string()));
                let list = if items.is_empty() { "NULL".to_owned() } else { items.join(", ") };
                all.push((name.clone(), format!("({list})")));
            }
            value => all.push((name.clone(), literal(value).ok_or_else(none)?)),
        }
    }
    Ok(all)
}

/// `10.2.1.7` before `10.2.2`, `AU-9` before `AU-10`.
fn natural(id: &str) -> Vec<(u64, &str)> {
    id.split(['.', '-']).map(|part| (part.parse().unwrap_or(0), part)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    const PERIOD: Period = Period { from_us: 1_767_614_400_000_000, to_us: 1_767_700_800_000_000 };

    #[test]
    fn every_file_below_controls_is_listed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../controls");
        let mut found = Vec::new();
        for folder in std::fs::read_dir(&root).unwrap() {
            let folder = folder.unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                found.push(format!("{}/{name}", folder.file_name().to_str().unwrap()));
            }
        }
        found.sort();
        let mut listed: Vec<&str> = shipped::FILES.iter().map(|(path, _)| *path).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
        for path in listed {
            let folder = path.split('/').next().unwrap();
            assert!(folder == shipped::QUERIES || shipped::SETS.contains(&folder), "{path}");
        }
    }

    #[test]
    fn each_set_resolves_and_its_files_are_read_back() {
        for set in shipped::SETS {
            let controls = Control::of_set(set, &Site::default(), &PERIOD).unwrap();
            assert!(controls.len() >= 5, "{set}");
            for control in controls {
                let text = control.to_text();
                assert!(!control.sql.contains("$from") && !control.header.population.contains("$to"));
                assert_eq!(Control::parse("x.sql", &text).unwrap(), control);
            }
        }
        assert!(matches!(Control::of_set("sox", &Site::default(), &PERIOD), Err(ControlError::UnknownSet(_))));
    }

    #[test]
    fn every_query_is_asked_by_a_clause_and_every_param_is_used() {
        let queries = queries().unwrap();
        let asked: Vec<String> = shipped::SETS
            .iter()
            .flat_map(|set| Control::of_set(set, &Site::default(), &PERIOD).unwrap())
            .map(|control| control.header.query)
            .collect();
        for (id, (query, sql)) in &queries {
            assert!(asked.contains(id), "no clause asks {id}");
            for name in query.params.keys() {
                assert!(
                    sql.contains(&format!("${name}")) || query.population.contains(&format!("${name}")),
                    "{id}: {name}"
                );
            }
        }
    }

    #[test]
    fn site_values_replace_defaults_and_are_never_syntax() {
        let site = Site::parse("[keys-created]\nspecs = [\"RSA_2048\", \"x') OR ('1'='1\"]\n").unwrap();
        let controls = Control::of_set("pci-dss-4", &site, &PERIOD).unwrap();
        let control = controls.iter().find(|control| control.header.query == "keys-created").unwrap();
        assert!(control.sql.contains("IN ('RSA_2048', 'x'') OR (''1''=''1')"), "{}", control.sql);
        for wrong in [
            "[keys-created]\nspec = []",
            "[other]\nspecs = []",
            "[keys-created]\nspecs = 1",
            "specs = 1",
            "[cryptoperiod]\ndays = \"1\"",
        ] {
            assert!(matches!(Site::parse(wrong), Err(ControlError::Site(_))), "{wrong}");
        }
        let lines = Site::parse("[keys-created]\nspecs = [\"a\\nb\"]\n").unwrap();
        assert!(Control::of_set("pci-dss-4", &lines, &PERIOD).is_err(), "a value of two lines");
    }

    #[test]
    fn files_with_more_than_is_known_are_refused() {
        let text = Control::of_set("soc2", &Site::default(), &PERIOD).unwrap()[0].to_text();
        assert!(Control::parse("x.sql", &text.replacen("-- title", "-- colour = 1\n-- title", 1)).is_err());
        assert!(Control::parse("x.sql", &"-- +++\n".repeat(CONTROL_BYTES_MAX)).is_err());
        assert!(Control::parse("x.sql", "SELECT 1").is_err());
    }
}
