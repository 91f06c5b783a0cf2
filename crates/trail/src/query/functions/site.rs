//! Accounts and networks: whom the site trusts, where an address is.
//!
//! The site's values come from the section `site` of rules/params.toml. A rule's answer must not hang on something that
//! nobody recorded: rules that ask for them have them in their hash, and other sessions get those of the running trail.

use super::policy::{json_text, let_in};
use super::{text, truth};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;
use keytrail_kms::policy::{self, Network};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Most trusted accounts.
const ACCOUNTS_MAX: usize = 10_000;

/// Most networks in one list.
const NETWORKS_MAX: usize = 256;

/// Functions that answer by what the site says.
const FUNCTIONS: [&str; 3] = ["is_trusted_account", "policy_untrusted_accounts", "policy_new_untrusted_accounts"];

/// What a site says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    trusted_accounts: Arc<BTreeSet<String>>,
}

impl Site {
    /// Reads the table `site` of params.toml.
    pub fn of_table(table: &std::collections::BTreeMap<String, toml::Value>) -> std::result::Result<Self, String> {
        let mut site = Self::default();
        for (name, value) in table {
            let accounts = match name.as_str() {
                "trusted_accounts" => value.as_array().ok_or("site.trusted_accounts is not a list")?,
                _ => return Err(format!("site has no value {name:?}")),
            };
            for account in accounts {
                site.trust(account.as_str().ok_or("site.trusted_accounts holds something that is not text")?)?;
            }
        }
        Ok(site)
    }

    /// Adds an account to the trusted ones.
    pub fn trust(&mut self, account: &str) -> std::result::Result<(), String> {
        if !is_account(account) {
            return Err(format!("site.trusted_accounts: {account:?} is not twelve digits"));
        }
        if self.trusted_accounts.len() == ACCOUNTS_MAX {
            return Err(format!("site.trusted_accounts has more than {ACCOUNTS_MAX} accounts"));
        }
        Arc::make_mut(&mut self.trusted_accounts).insert(account.to_owned());
        Ok(())
    }

    /// The line that a rule with this SQL has in its hash; None when it does not ask the site.
    pub(crate) fn line_for(&self, sql: &str) -> Option<String> {
        let sql = sql.to_ascii_lowercase();
        FUNCTIONS.iter().any(|name| sql.contains(name)).then(|| format!("site.trusted_accounts={}\n", self.to_json()))
    }

    /// The trusted accounts as a list in JSON, sorted.
    pub fn to_json(&self) -> String {
        json_text(&*self.trusted_accounts).unwrap_or_default()
    }

    /// What [`Site::to_json`] wrote; nobody where that cannot be read.
    pub fn of_json(text: &[u8]) -> Self {
        Self { trusted_accounts: Arc::new(serde_json::from_slice(text).unwrap_or_default()) }
    }
}

pub(super) fn functions(site: &Site) -> Vec<ScalarUDF> {
    let (trusted, also_trusted) = (site.trusted_accounts.clone(), site.trusted_accounts.clone());
    let still_trusted = site.trusted_accounts.clone();
    vec![
        text("arn_account", |[arn]| Ok(policy::account_of(arn).map(str::to_owned))),
        truth("is_trusted_account", move |[account]| Ok(is_account(account).then(|| trusted.contains(account)))),
        text("policy_untrusted_accounts", move |[text, own]| {
            let accounts = policy::named_accounts(text).ok();
            let outside = |account: &String| account != own && !also_trusted.contains(account);
            Ok(accounts.and_then(|all| json_text(&all.into_iter().filter(outside).collect::<Vec<_>>())))
        }),
        text("policy_new_untrusted_accounts", move |[old, new, own]| {
            let account = |name: &String| policy::account_of(name).unwrap_or(name).to_owned();
            let outside = |account: &String| is_account(account) && account != own && !still_trusted.contains(account);
            let new = let_in(old, new).map(|all| all.iter().map(account).filter(outside).collect::<BTreeSet<_>>());
            Ok(new.and_then(|new| json_text(&new)))
        }),
        text("client_ip", |[address]| Ok(address.parse::<IpAddr>().ok().map(|_| address.to_owned()))),
        truth("cidr_match", |[address, networks]| cidr_match(address, networks)),
    ]
}

fn cidr_match(address: &str, networks: &str) -> Result<Option<bool>> {
    if networks.split(',').count() > NETWORKS_MAX {
        return Err(exec_datafusion_err!("cidr_match: more than {NETWORKS_MAX} networks"));
    }
    let parse = |text: &str| {
        Network::parse(text.trim()).ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            exec_datafusion_err!("cidr_match: {text:?} is neither an address nor a CIDR block")
        })
    };
    let networks = networks.split(',').map(parse).collect::<Result<Vec<_>>>()?;
    // A service's name stands where the client's address would.
    let Ok(address) = address.parse::<IpAddr>() else { return Ok(None) };
    Ok(Some(networks.iter().any(|network| network.contains(address))))
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}
