//! Text patterns: `*` and `?`, policy variables, and the ARN forms of both.
//!
//! Compiled when a document is parsed. What a variable expands to is matched literally, so that a user named `*` is no
//! wildcard. Matching is at worst pattern length times text length, with both bounded by their documents.

use super::fact::ConditionKey;
use super::request::Request;

/// A compiled pattern without variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `*`.
    Any,
    /// No wildcard.
    Exact(String),
    /// One `*`, at the end.
    Prefix(String),
    /// Everything else.
    Tokens(Vec<Token>),
}

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// This character.
    Char(char),
    /// `?`: any one character.
    One,
    /// `*`: any run of characters.
    Run,
    /// `*` inside an ARN's segment: any run of characters other than a colon.
    RunInSegment,
}

impl Pattern {
    /// `*` and `?` are wildcards, everything else is itself.
    pub(super) fn glob(text: &str) -> Self {
        Self::of_tokens(text.chars().map(glob_token).collect())
    }

    pub(super) fn of_tokens(tokens: Vec<Token>) -> Self {
        let literal = |tokens: &[Token]| -> Option<String> {
            tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect()
        };
        if tokens == [Token::Run] {
            return Self::Any;
        }
        if let Some(text) = literal(&tokens) {
            return Self::Exact(text);
        }
        if let Some((Token::Run, head)) = tokens.split_last()
            && let Some(text) = literal(head)
        {
            return Self::Prefix(text);
        }
        Self::Tokens(tokens)
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(want) => want == text,
            Self::Prefix(head) => text.starts_with(head.as_str()),
            Self::Tokens(tokens) => tokens_match(tokens, text),
        }
    }
}

/// A pattern with policy variables, or without.
#[derive(Clone, Debug)]
pub(super) enum Template {
    Fixed(Pattern),
    Variable(Vec<Part>),
    /// A resource with a variable where AWS replaces none: before its fifth colon. What AWS makes of it is not told.
    Misplaced,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Token(Token),
    Variable { key: ConditionKey, default: Option<String> },
}

impl Template {
    /// Whether it matches; None when a variable has no value.
    pub(super) fn matches(&self, text: &str, request: &Request<'_>) -> Option<bool> {
        match self {
            Self::Fixed(pattern) => Some(pattern.matches(text)),
            Self::Variable(parts) => Some(Pattern::of_tokens(expand(parts, request)?).matches(text)),
            Self::Misplaced => None,
        }
    }

    pub(super) fn has_variables(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::Misplaced)
    }

    /// Whether it matches one text only.
    pub(super) fn is_literal(&self) -> bool {
        matches!(self, Self::Fixed(Pattern::Exact(_)))
    }

    /// Whether, applied to principal ARNs, only those of one account can match: the text up to the account's end has no
    /// wildcard.
    pub(super) fn names_one_account(&self) -> bool {
        let head = match self {
            Self::Fixed(Pattern::Exact(_)) => return true,
            Self::Fixed(Pattern::Prefix(head)) => head.clone(),
            Self::Fixed(Pattern::Tokens(tokens)) => {
                tokens.iter().map_while(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect()
            }
            Self::Fixed(Pattern::Any) | Self::Variable(_) | Self::Misplaced => return false,
        };
        head.split(':').count() > 5
    }
}

/// Splits a text into tokens and variables. `glob`: whether `*` and `?` are wildcards. `variables`: whether `${...}` is
/// one (policy version 2012-10-17).
pub(super) fn parse_parts(text: &str, glob: bool, variables: bool) -> Result<Vec<Part>, String> {
    let token = |c| Part::Token(if glob { glob_token(c) } else { Token::Char(c) });
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if variables && let Some(after) = rest.strip_prefix("${") {
            let (name, tail) =
                after.split_once('}').ok_or_else(|| format!("'{text}' has an unclosed policy variable"))?;
            parts.push(parse_variable(name.trim())?);
            rest = tail;
        } else {
            parts.push(token(first));
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    Ok(parts)
}

fn parse_variable(name: &str) -> Result<Part, String> {
    if let "*" | "?" | "$" = name {
        return Ok(Part::Token(Token::Char(name.chars().next().expect("one of three characters"))));
    }
    let (name, default) = match name.split_once(',') {
        None => (name, None),
        Some((name, quoted)) => {
            let text = quoted.trim().strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            (name.trim(), Some(text.ok_or_else(|| format!("default of variable '{name}' is not quoted"))?.to_owned()))
        }
    };
    let key = ConditionKey::parse(name).ok_or_else(|| format!("policy variable '{name}' is not supported"))?;
    if key.is_multivalued() {
        return Err(format!("policy variable '{name}' may have several values"));
    }
    Ok(Part::Variable { key, default })
}

/// Compiles parts that may hold variables.
pub(super) fn template(parts: Vec<Part>) -> Template {
    match fixed_tokens(&parts) {
        Some(tokens) => Template::Fixed(Pattern::of_tokens(tokens)),
        None => Template::Variable(parts),
    }
}

fn fixed_tokens(parts: &[Part]) -> Option<Vec<Token>> {
    parts.iter().map(|part| if let Part::Token(token) = part { Some(*token) } else { None }).collect()
}

fn expand(parts: &[Part], request: &Request<'_>) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    for part in parts {
        match part {
            Part::Token(token) => tokens.push(*token),
            Part::Variable { key, default } => {
                let text = key.fact(request).as_text().map(|text| text.into_owned()).or_else(|| default.clone())?;
                tokens.extend(text.chars().map(Token::Char));
            }
        }
    }
    Some(tokens)
}

/// A `Resource` pattern. A `*` that ends its segment may run over colons, one inside a segment may not; missing
/// segments are completed with `*`, as AWS does.
pub(super) fn resource_template(text: &str, variables: bool) -> Result<Template, String> {
    if text == "*" {
        return Ok(Template::Fixed(Pattern::Any));
    }
    if !text.starts_with("arn:") {
        return Err(format!("resource '{text}' is neither an ARN nor *"));
    }
    let mut parts = parse_parts(text, true, variables)?;
    let is_colon = |part: Option<&Part>| matches!(part, None | Some(Part::Token(Token::Char(':'))));
    let mut segment = 0;
    for index in 0..parts.len() {
        if segment < 5 && matches!(parts.get(index), Some(Part::Variable { .. })) {
            return Ok(Template::Misplaced);
        }
        let ends_segment = is_colon(parts.get(index + 1));
        if is_colon(parts.get(index)) {
            segment += 1;
        } else if segment < 5
            && !ends_segment
            && let Some(Part::Token(token @ Token::Run)) = parts.get_mut(index)
        {
            *token = Token::RunInSegment;
        }
    }
    let ends_in_run = matches!(parts.last(), Some(Part::Token(Token::Run)));
    if segment < 5 && !ends_in_run {
        for _ in segment..5 {
            parts.extend([Part::Token(Token::Char(':')), Part::Token(Token::Run)]);
        }
    }
    Ok(template(parts))
}

/// A pattern of the Arn operators: six segments, each matched by itself.
#[derive(Clone, Debug)]
pub(super) enum ArnTemplate {
    Any,
    Fixed([Pattern; 6]),
    Variable(Vec<Part>),
}

impl ArnTemplate {
    pub(super) fn has_variables(&self) -> bool {
        matches!(self, Self::Variable(_))
    }

    pub(super) fn parse(text: &str, variables: bool) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let parts = parse_parts(text, true, variables)?;
        match fixed_tokens(&parts) {
            None => Ok(Self::Variable(parts)),
            Some(tokens) if text.starts_with("arn:") => {
                Ok(Self::Fixed(segments(&tokens).ok_or_else(|| format!("'{text}' is not an ARN of six segments"))?))
            }
            Some(_) => Err(format!("'{text}' is not an ARN")),
        }
    }

    pub(super) fn matches(&self, arn: &str, request: &Request<'_>) -> Option<bool> {
        match self {
            Self::Any => Some(true),
            Self::Fixed(patterns) => Some(segments_match(patterns, arn)),
            Self::Variable(parts) => {
                let tokens = expand(parts, request)?;
                Some(segments(&tokens).is_some_and(|patterns| segments_match(&patterns, arn)))
            }
        }
    }

    /// Whether only ARNs of one account can match.
    pub(super) fn names_one_account(&self) -> bool {
        match self {
            Self::Fixed([_, _, _, _, account, _]) => matches!(account, Pattern::Exact(text) if !text.is_empty()),
            Self::Any | Self::Variable(_) => false,
        }
    }
}

fn segments(tokens: &[Token]) -> Option<[Pattern; 6]> {
    let pieces: Vec<Pattern> =
        tokens.splitn(6, |token| *token == Token::Char(':')).map(|piece| Pattern::of_tokens(piece.to_vec())).collect();
    pieces.try_into().ok()
}

fn segments_match(patterns: &[Pattern; 6], arn: &str) -> bool {
    let mut pieces = arn.splitn(6, ':');
    patterns.iter().all(|pattern| pieces.next().is_some_and(|piece| pattern.matches(piece)))
}

fn glob_token(c: char) -> Token {
    match c {
        '*' => Token::Run,
        '?' => Token::One,
        other => Token::Char(other),
    }
}

fn tokens_match(tokens: &[Token], text: &str) -> bool {
    if tokens.contains(&Token::RunInSegment) { states_match(tokens, text) } else { greedy_match(tokens, text) }
}

/// One kind of run: going back to the last run is enough.
fn greedy_match(tokens: &[Token], text: &str) -> bool {
    let mut at = 0;
    let mut rest = text.chars();
    // Where to go on after the last run when the attempt fails: the token behind it, and the text not yet given to it.
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let here = rest.clone();
        match (tokens.get(at), rest.next()) {
            (Some(Token::Run), _) => {
                at += 1;
                rest = here.clone();
                retry = Some((at, here));
                continue;
            }
            (None, None) => return true,
            (Some(Token::One), Some(_)) => {
                at += 1;
                continue;
            }
            (Some(Token::Char(want)), Some(c)) if *want == c => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some((after_run, mut from)) = retry.take() else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        at = after_run;
        rest = from.clone();
        retry = Some((after_run, from));
    }
}

/// Two kinds of run: all positions in the pattern that the text so far can have reached.
fn states_match(tokens: &[Token], text: &str) -> bool {
    let mut reached = vec![false; tokens.len() + 1];
    let skip_runs = |reached: &mut Vec<bool>| {
        for (index, token) in tokens.iter().enumerate() {
            if reached.get(index) == Some(&true)
                && matches!(token, Token::Run | Token::RunInSegment)
                && let Some(next) = reached.get_mut(index + 1)
            {
                *next = true;
            }
        }
    };
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    skip_runs(&mut reached);
    for c in text.chars() {
        let mut next = vec![false; tokens.len() + 1];
        for (index, token) in tokens.iter().enumerate().filter(|(index, _)| reached.get(*index) == Some(&true)) {
            let to = match token {
                Token::Char(want) if *want == c => index + 1,
                Token::One => index + 1,
                Token::Run => index,
                Token::RunInSegment if c != ':' => index,
                Token::Char(_) | Token::RunInSegment => continue,
            };
            if let Some(state) = next.get_mut(to) {
                *state = true;
            }
        }
        reached = next;
        skip_runs(&mut reached);
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_globs() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*", "b", false),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("?", "é", true),
            ("??", "é", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "aab", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(Pattern::glob(pattern).matches(text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn resources_keep_to_their_segments() {
        let key = "arn:aws:kms:us-east-1:111122223333:key/1234";
        for (pattern, want) in [
            ("*", true),
            ("arn:aws:kms:us-east-1:111122223333:key/1234", true),
            ("arn:aws:kms:us-east-1:111122223333:key/*", true),
            ("arn:aws:kms:*:111122223333:key/*", true),
            ("arn:aws:kms:*:key/1234", false),
            ("arn:aws:kms:*", true),
            ("arn:aws:kms", true),
            ("arn:aws:s3", false),
            ("arn:aws:kms:us-*-1:111122223333:key/*", true),
            ("arn:aws:kms:us-*3333:key/*", false),
            ("arn:aws:kms:us-*:11112222*:key/12?4", true),
            ("arn:aws:kms:us-east-1:444455556666:key/*", false),
            ("arn:aws:kms:us-east-1:111122223333", true),
        ] {
            let Template::Fixed(pattern_) = resource_template(pattern, true).unwrap() else { unreachable!() };
            assert_eq!(pattern_.matches(key), want, "{pattern}");
        }
        assert!(resource_template("key/1234", true).is_err());
        assert!(resource_template("arn:aws:kms:${aws:nonsense}:1:key/*", true).is_err());
    }

    proptest! {
        #[test]
        fn both_matchers_agree(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let tokens: Vec<Token> = pattern.chars().map(glob_token).collect();
            prop_assert_eq!(greedy_match(&tokens, &text), states_match(&tokens, &text));
            prop_assert_eq!(greedy_match(&tokens, &text), Pattern::glob(&pattern).matches(&text));
        }
    }
}
