//! Who is told of an incident, and when: a tree of routes in the way of Prometheus' Alertmanager.
//!
//! An incident enters at the root. Of a route's children the first that matches takes it, and those after it only if
//! that one says `continue`; a route none of whose children takes it tells its own receivers. What a route does not say
//! itself it has from its parent. Pure: what an incident is, is in [`Subject`], read from the store by `facts`.

use crate::playbook::Severity;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Most routes in a tree, and the deepest one.
const ROUTES_MAX: usize = 256;
const DEPTH_MAX: usize = 8;
/// Most conditions of one match, and most values of a condition.
const CONDITIONS_MAX: usize = 32;

/// One route with its children; unknown fields are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSettings {
    /// What it takes; nothing said is everything.
    #[serde(rename = "match")]
    pub matches: Matcher,
    /// Who is told. Absent: whom the parent tells; at the root: every receiver.
    pub receivers: Option<Vec<String>>,
    /// Whether the routes after it are asked too.
    #[serde(rename = "continue")]
    pub goes_on: bool,
    /// From an incident's first news to its first notice. Absent: at once for high and critical, else the quiet time.
    #[serde(with = "humantime_serde")]
    pub group_wait: Option<Duration>,
    /// Shortest time between two notices about one incident. Absent: the quiet time alone.
    #[serde(with = "humantime_serde")]
    pub group_interval: Option<Duration>,
    /// After this long an incident with something still open is told again. Absent: never.
    #[serde(with = "humantime_serde")]
    pub repeat_interval: Option<Duration>,
    /// Without an acknowledgement after this long, `escalate_to` is told.
    #[serde(with = "humantime_serde")]
    pub escalate_after: Option<Duration>,
    /// See `escalate_after`.
    pub escalate_to: Option<Vec<String>>,
    /// More particular routes, in order.
    pub routes: Vec<RouteSettings>,
}

/// While an incident that matches `source` is open and told, those that match `target` and share something are not told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InhibitSettings {
    /// What mutes.
    pub source: Matcher,
    /// What is muted; never an incident of higher severity than the source.
    pub target: Matcher,
    /// What they must share, one of it: `principal`, `key`.
    pub equal: Vec<Shared>,
}

/// Something that two incidents can have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shared {
    /// Whose calls they are about.
    Principal,
    /// A key in the evidence of both.
    Key,
}

impl InhibitSettings {
    /// A critical incident mutes lesser ones of the same principal or key.
    pub fn shipped() -> Vec<Self> {
        let only = |words: &[&str]| Matcher(vec![(Field::Severity, words.iter().map(|&word| word.into()).collect())]);
        let (source, target) = (only(&["critical"]), only(&["info", "low", "medium", "high"]));
        vec![Self { source, target, equal: vec![Shared::Principal, Shared::Key] }]
    }
}

/// Conditions that must all hold; of a condition's values one must fit. A value may end in `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, OneOrMany>")]
pub struct Matcher(Vec<(Field, Vec<String>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Severity,
    MinSeverity,
    Rule,
    Principal,
    Key,
    Label(String),
    Tag(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// What routes, silences and inhibitions look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The worst of its alerts.
    pub severity: Severity,
    /// Ids of the rules that fired.
    pub rules: BTreeSet<String>,
    /// Labels of these rules.
    pub labels: BTreeSet<(String, String)>,
    /// Tags that its keys had right after a call in the evidence.
    pub tags: BTreeSet<(String, String)>,
    /// Whose calls it is about.
    pub principal: Option<String>,
    /// Keys in its evidence.
    pub keys: Vec<String>,
}

/// Why routes cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RouteError {
    /// Not a field, or not one that has this value.
    #[error("match {0:?} is not severity, min_severity, rule, principal, key, label:NAME or tag:NAME with a value")]
    Match(String),
    /// A receiver that is not configured.
    #[error("route names receiver {0:?}, which is not configured")]
    Receiver(String),
    /// Half of an escalation.
    #[error("route needs escalate_after and escalate_to together")]
    HalfEscalation,
    /// Too many routes or too deep.
    #[error("routes are more than {ROUTES_MAX} or deeper than {DEPTH_MAX}")]
    TooMany,
    /// The root takes everything.
    #[error("the first route takes everything: `match` and `continue` belong to its `routes`")]
    Root,
    /// Nobody may be called this.
    #[error("receiver name {0:?} is not 1 to 32 of a-z, 0-9 and -")]
    Name(String),
}

/// Whom to tell, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// See [`RouteSettings::group_wait`].
    pub group_wait: Option<Duration>,
    /// See [`RouteSettings::group_interval`].
    pub group_interval: Option<Duration>,
    /// See [`RouteSettings::repeat_interval`].
    pub repeat_interval: Option<Duration>,
    /// See [`RouteSettings::escalate_after`].
    pub escalate_after: Option<Duration>,
    /// See [`RouteSettings::escalate_to`].
    pub escalate_to: Vec<String>,
}

impl RouteSettings {
    /// Refuses unknown receivers and trees without bound.
    pub fn check(&self, known: &BTreeSet<&str>) -> Result<(), RouteError> {
        if self.matches != Matcher::default() || self.goes_on {
            return Err(RouteError::Root);
        }
        let mut count = 0;
        self.check_at(known, 1, &mut count)
    }

    fn check_at(&self, known: &BTreeSet<&str>, depth: usize, count: &mut usize) -> Result<(), RouteError> {
        *count += 1;
        if depth > DEPTH_MAX || *count > ROUTES_MAX {
            return Err(RouteError::TooMany);
        }
        if self.escalate_after.is_some() != self.escalate_to.is_some() {
            return Err(RouteError::HalfEscalation);
        }
        let named = self.receivers.iter().chain(&self.escalate_to).flatten();
        if let Some(unknown) = named.into_iter().find(|name| !known.contains(name.as_str())) {
            return Err(RouteError::Receiver(unknown.clone()));
        }
        self.routes.iter().try_for_each(|route| route.check_at(known, depth + 1, count))
    }

    /// Receivers with how each is told; of two routes to one receiver the first counts.
    pub fn destinations(&self, subject: &Subject, all: &[String]) -> BTreeMap<String, Destination> {
        let mut found = BTreeMap::new();
        self.collect(subject, &Destination::default(), all, &mut found);
        found
    }

    fn collect(
        &self,
        subject: &Subject,
        parent: &Destination,
        inherited: &[String],
        found: &mut BTreeMap<String, Destination>,
    ) {
        let own = Destination {
            group_wait: self.group_wait.or(parent.group_wait),
            group_interval: self.group_interval.or(parent.group_interval),
            repeat_interval: self.repeat_interval.or(parent.repeat_interval),
            escalate_after: self.escalate_after.or(parent.escalate_after),
            escalate_to: self.escalate_to.clone().unwrap_or_else(|| parent.escalate_to.clone()),
        };
        let receivers = self.receivers.as_deref().unwrap_or(inherited);
        let mut taken = false;
        for route in self.routes.iter().filter(|route| route.matches.takes(subject)) {
            taken = true;
            route.collect(subject, &own, receivers, found);
            if !route.goes_on {
                break;
            }
        }
        if !taken {
            for receiver in receivers {
                found.entry(receiver.clone()).or_insert_with(|| own.clone());
            }
        }
    }
}

impl Matcher {
    /// Reads `field=value` words, as the command line gives them; the same field twice is one with two values.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, RouteError> {
        let mut map: BTreeMap<String, OneOrMany> = BTreeMap::new();
        for word in words {
            let (field, value) = word.split_once('=').ok_or_else(|| RouteError::Match(word.to_owned()))?;
            match map.entry(field.to_owned()).or_insert_with(|| OneOrMany::Many(Vec::new())) {
                OneOrMany::Many(values) => values.push(value.to_owned()),
                OneOrMany::One(_) => {}
            }
        }
        Self::try_from(map)
    }

    /// As `field=value` words, for the store and for people.
    pub fn words(&self) -> Vec<String> {
        let word = |(field, values): &(Field, Vec<String>)| {
            let name = match field {
                Field::Severity => "severity".to_owned(),
                Field::MinSeverity => "min_severity".to_owned(),
                Field::Rule => "rule".to_owned(),
                Field::Principal => "principal".to_owned(),
                Field::Key => "key".to_owned(),
                Field::Label(name) => format!("label:{name}"),
                Field::Tag(name) => format!("tag:{name}"),
            };
            values.iter().map(move |value| format!("{name}={value}")).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(word).collect()
    }

    /// Takes everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all conditions hold.
    pub fn takes(&self, subject: &Subject) -> bool {
        self.0.iter().all(|(field, values)| values.iter().any(|value| field.fits(value, subject)))
    }
}

impl Field {
    fn fits(&self, value: &str, subject: &Subject) -> bool {
        let named = |pairs: &BTreeSet<(String, String)>, name: &str| {
            pairs.iter().any(|(other, held)| other == name && fits(value, held))
        };
        match self {
            Self::Severity => subject.severity.as_str() == value,
            Self::MinSeverity => value.parse().is_ok_and(|least: Severity| subject.severity >= least),
            Self::Rule => subject.rules.iter().any(|rule| fits(value, rule)),
            Self::Principal => subject.principal.as_deref().is_some_and(|arn| fits(value, arn)),
            Self::Key => subject.keys.iter().any(|key| fits(value, key)),
            Self::Label(name) => named(&subject.labels, name),
            Self::Tag(name) => named(&subject.tags, name),
        }
    }
}

fn fits(wanted: &str, held: &str) -> bool {
    wanted.strip_suffix('*').map_or(wanted == held, |start| held.starts_with(start))
}

impl TryFrom<BTreeMap<String, OneOrMany>> for Matcher {
    type Error = RouteError;

    fn try_from(map: BTreeMap<String, OneOrMany>) -> Result<Self, RouteError> {
        let mut conditions = Vec::new();
        for (name, values) in map {
            let refused = || RouteError::Match(name.clone());
            let values = match values {
                OneOrMany::One(value) => vec![value],
                OneOrMany::Many(values) => values,
            };
            let field = match name.as_str() {
                "severity" => Field::Severity,
                "min_severity" => Field::MinSeverity,
                "rule" => Field::Rule,
                "principal" => Field::Principal,
                "key" => Field::Key,
                other => match other.split_once(':') {
                    Some(("label", name)) if !name.is_empty() => Field::Label(name.to_owned()),
                    Some(("tag", name)) if !name.is_empty() => Field::Tag(name.to_owned()),
                    _ => return Err(refused()),
                },
            };
            let severity = matches!(field, Field::Severity | Field::MinSeverity);
            let bad = |value: &String| value.is_empty() || (severity && value.parse::<Severity>().is_err());
            if values.is_empty() || values.len() > CONDITIONS_MAX || values.iter().any(bad) {
                return Err(refused());
            }
            conditions.push((field, values));
        }
        if conditions.len() > CONDITIONS_MAX {
            return Err(RouteError::Match(String::new()));
        }
        Ok(Self(conditions))
    }
}

/// Names are parts of Message-IDs, metrics and lines for people.
pub(crate) fn check_name(name: &str) -> Result<(), RouteError> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=32).contains(&name.len()) && name.chars().all(fine) { Ok(()) } else { Err(RouteError::Name(name.into())) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TREE: &str = r#"
receivers = ["soc"]
group_wait = "30s"
[[routes]]
match = { "tag:owner" = "payments" }
receivers = ["payments"]
continue = true
[[routes]]
match = { severity = ["critical", "high"], "label:env" = "prod" }
receivers = ["oncall", "soc"]
group_wait = "0s"
escalate_after = "15m"
escalate_to = ["manager"]
[[routes.routes]]
match = { rule = "canary-*" }
receivers = ["canaries"]
[[routes]]
match = { principal = "arn:aws:iam::1:user/*", min_severity = "low" }
receivers = ["users"]
"#;

    fn subject() -> Subject {
        Subject {
            severity: Severity::High,
            rules: ["denied-burst".to_owned()].into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            tags: BTreeSet::new(),
            principal: Some("arn:aws:iam::1:user/m".into()),
            keys: vec!["arn:aws:kms:::key/k1".into()],
        }
    }

    fn told(tree: &RouteSettings, subject: &Subject) -> Vec<String> {
        tree.destinations(subject, &["everyone".into()]).into_keys().collect()
    }

    #[test]
    fn the_first_child_that_matches_takes_it_unless_it_says_continue() {
        let tree: RouteSettings = toml::from_str(TREE).unwrap();
        let with = |change: &dyn Fn(&mut Subject)| {
            let mut changed = subject();
            change(&mut changed);
            told(&tree, &changed)
        };
        assert_eq!(with(&|_| ()), ["oncall", "soc"]);
        let owned = |s: &mut Subject| s.tags = [("owner".to_owned(), "payments".to_owned())].into();
        assert_eq!(with(&owned), ["oncall", "payments", "soc"]);
        assert_eq!(with(&|s| s.rules = ["canary-key".to_owned()].into()), ["canaries"]);
        assert_eq!(with(&|s| s.severity = Severity::Low), ["users"]);
        assert_eq!(with(&|s| (s.severity, s.principal) = (Severity::Low, None)), ["soc"]);
        assert_eq!(told(&RouteSettings::default(), &subject()), ["everyone"]);
    }

    #[test]
    fn what_a_route_does_not_say_it_has_from_its_parent() {
        let tree: RouteSettings = toml::from_str(TREE).unwrap();
        let mut canary = subject();
        canary.rules = ["canary-key".to_owned()].into();
        let all = tree.destinations(&canary, &[]);
        assert_eq!(all["canaries"].group_wait, Some(Duration::ZERO));
        assert_eq!(all["canaries"].escalate_to, ["manager"]);
        canary.severity = Severity::Low;
        assert_eq!(tree.destinations(&canary, &[])["users"].group_wait, Some(Duration::from_secs(30)));
    }

    #[test]
    fn trees_are_checked() {
        let tree: RouteSettings = toml::from_str(TREE).unwrap();
        let all = ["soc", "payments", "oncall", "manager", "canaries", "users"];
        assert_eq!(tree.check(&all.into()), Ok(()));
        assert_eq!(tree.check(&all[..5].iter().copied().collect()), Err(RouteError::Receiver("users".into())));
        let of = |text: &str| toml::from_str::<RouteSettings>(text);
        assert_eq!(of("escalate_after = \"1m\"").unwrap().check(&all.into()), Err(RouteError::HalfEscalation));
        assert_eq!(of("match = { rule = \"x\" }").unwrap().check(&all.into()), Err(RouteError::Root));
        for bad in ["match = { sev = \"high\" }", "match = { severity = \"worst\" }", "match = { rule = [] }", "to = 1"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        let mut deep = RouteSettings::default();
        for _ in 0..DEPTH_MAX {
            deep = RouteSettings { routes: vec![deep], ..RouteSettings::default() };
        }
        assert_eq!(deep.check(&all.into()), Err(RouteError::TooMany));
    }

    #[test]
    fn matchers_survive_the_store() {
        let words = ["tag:owner=pay=ments", "severity=low", "severity=medium", "rule=a*"];
        let matcher = Matcher::parse(words).unwrap();
        assert_eq!(Matcher::parse(matcher.words().iter().map(String::as_str)), Ok(matcher));
        assert!(Matcher::parse(["nonsense"]).is_err());
    }

    proptest! {
        /// Whatever the tree, an incident that the root's receivers would get is told to somebody.
        #[test]
        fn nobody_is_never_told(
            severities in proptest::collection::vec(0_usize..5, 0..6),
            goes_on in proptest::collection::vec(any::<bool>(), 6),
            severity in 0_usize..5,
        ) {
            let all = [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
            let routes = severities.iter().enumerate().map(|(index, wanted)| RouteSettings {
                matches: Matcher::parse([format!("severity={}", all[*wanted]).as_str()]).unwrap(),
                receivers: Some(vec![format!("r{index}")]),
                goes_on: goes_on[index],
                ..RouteSettings::default()
            });
            let tree = RouteSettings { routes: routes.collect(), ..RouteSettings::default() };
            let of = Subject { severity: all[severity], ..subject() };
            let found = told(&tree, &of);
            // A plain reading of the rule, one route after the other.
            let mut expected = BTreeSet::new();
            for (index, wanted) in severities.iter().enumerate() {
                if *wanted == severity {
                    expected.insert(format!("r{index}"));
                    if !goes_on[index] {
                        break;
                    }
                }
            }
            if expected.is_empty() {
                expected.insert("everyone".to_owned());
            }
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
