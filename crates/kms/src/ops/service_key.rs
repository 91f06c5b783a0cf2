//! Keys of services, as AWS manages them: `alias/aws/<service>` comes into being when the service first names it for a
//! user of the account.
//!
//! Nobody may change such a key, and nobody uses it but through its service; the policy says so, and `is_closed` does for
//! whoever stands above policies or holds a grant. Threat: a service's credentials make one key in each region for each
//! account that identities.toml gives them, no more. docs/decisions/0016-keys-of-services.md.

use super::create_key::{first_material, key_row};
use super::drive::Effect;
use super::key_policy::parse_policy;
use super::refusal::Refusal;
use super::rotation::PERIOD_DAYS;
use super::service_event::ServiceEvent;
use crate::access::Caller;
use crate::crypto::{SecretBytes, SecretHalf};
use crate::key::{AccountId, AutomaticRotation, KeyId, KeyRecord, Region};
use crate::locks::Held;
use crate::node::Node;
use crate::registry::{Alias, Publish};
use crate::spec::KeyKind;
use crate::store::Change;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// The alias of a service's key. What EBS encrypts it encrypts through EC2.
pub(crate) fn alias_of(service: &str) -> Option<String> {
    match service {
        "ec2" => Some("alias/aws/ebs".to_owned()),
        // Else two services would have one alias.
        "ebs" => None,
        other => Some(format!("alias/aws/{other}")),
    }
}

/// Whether a call about a key is none that its service makes for the key's account, nor one that only looks at it.
pub(crate) fn is_closed(key: &KeyRecord, caller: &Caller, action: &str) -> bool {
    let Some(service) = key.service.as_deref() else { return false };
    let name = action.strip_prefix("kms:").unwrap_or(action);
    let served = caller.account == key.account && caller.via.as_ref().is_some_and(|via| via.service == service);
    !only_looks(name) && !served
}

/// Whether an operation is open to others than the service whose own key it is about.
pub(crate) fn only_looks(name: &str) -> bool {
    ["Describe", "Get", "List"].iter().any(|verb| name.starts_with(verb)) || name == "RevokeGrant"
}

/// Makes a service's key and its alias, unless another call has done so meanwhile.
pub(crate) async fn make(
    node: &Arc<Node>,
    place: (AccountId, Region),
    service: &str,
    alias: &str,
) -> Result<(), Refusal> {
    let (account, region) = place;
    let (node, service, alias) = (Arc::clone(node), service.to_owned(), alias.to_owned());
    // In a task of its own: its locks must outlive a caller that hangs up.
    let task = tokio::spawn(async move {
        let held = node.locks.hold(&BTreeSet::from([node.locks.alias(account, region, &alias)])).await;
        match node.registry.alias(account, region, &alias) {
            Some(_) => Ok(()),
            None => create(&node, held, place, &service, &alias).await,
        }
    });
    task.await.unwrap_or_else(|_| Err(Refusal::internal()))
}

async fn create(
    node: &Node,
    held: Held,
    (account, region): (AccountId, Region),
    service: &str,
    alias: &str,
) -> Result<(), Refusal> {
    let now_us = node.clock.now_us();
    let mut event = ServiceEvent::without_key(node, "CreateKey", (account, region), now_us);
    let secret = SecretHalf::generate(KeyKind::SYMMETRIC).map_err(|_| Refusal::internal())?;
    let record = record(node, (account, region), (service, alias), &secret, (now_us, event.event_id))?;
    event.about(&record);
    event.detail("aliasName", alias);
    event.record.touch_alias(account, alias, region);
    event.record.after = Some(record.image());
    event.record.more.insert("policy".to_owned(), (*record.policy.text).into());
    let name = alias.to_owned();
    let effect = Effect {
        changes: vec![
            Change::InsertKey(Box::new(key_row(node, &record, Some(&secret))?)),
            Change::SetRotation(record.id, record.rotation, None),
            Change::PutAlias {
                account,
                name,
                id: record.id,
                created_us: now_us,
                updated_us: now_us,
                event_id: event.event_id.to_string(),
            },
        ],
        publish: vec![
            Publish::Alias(account, alias.into(), Alias { target: record.id, created_us: now_us, updated_us: now_us }),
            Publish::Key(Arc::new(record)),
        ],
        ..Effect::default()
    };
    if event.carry(held, effect).await { Ok(()) } else { Err(Refusal::internal()) }
}

/// Makes the key, in memory only.
fn record(
    node: &Node,
    (account, region): (AccountId, Region),
    (service, alias): (&str, &str),
    secret: &SecretBytes,
    (now_us, event_id): (u64, Uuid),
) -> Result<KeyRecord, Refusal> {
    let policy = (parse_policy(node, &policy(account.as_str(), region.as_str(), service))?, event_id);
    let material = first_material(KeyKind::SYMMETRIC, secret, now_us)?;
    let id = KeyId::single(region, node.random_id());
    let mut record = KeyRecord::new(id, account, KeyKind::SYMMETRIC, now_us, policy, Some(material));
    record.service = Some(service.into());
    record.description = format!("Default key that protects my {service} data when no other key is defined").into();
    record.rotation = Some(AutomaticRotation::starting(PERIOD_DAYS, now_us));
    Ok(record.with_alias(alias))
}

/// AWS's policy for such keys: all of the account use it through the service, and the account's administrators look at it.
fn policy(account: &str, region: &str, service: &str) -> String {
    let sid = format!(
        "Allow access through {service} for all principals in the account that are authorized to use {service}"
    );
    let policy = json!({
        "Version": "2012-10-17",
        "Id": format!("auto-{service}-1"),
        "Statement": [
            {
                "Sid": sid,
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": [
                    "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant",
                    "kms:DescribeKey",
                ],
                "Resource": "*",
                "Condition": {"StringEquals": {
                    "kms:CallerAccount": account, "kms:ViaService": format!("{service}.{region}.amazonaws.com"),
                }},
            },
            {
                "Sid": "Allow direct access to key metadata to the account",
                "Effect": "Allow",
                "Principal": {"AWS": format!("arn:aws:iam::{account}:root")},
                "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
                "Resource": "*",
            },
        ],
    });
    policy.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::{Document, Flavor, is_public};

    #[test]
    fn the_policy_parses_and_is_not_open_to_everyone() {
        for service in ["s3", "a-service-of-the-longest-name-32"] {
            let text = policy("123456789012", "eu-central-1", service);
            assert!(Document::parse(&text, Flavor::KeyPolicy).is_ok());
            assert!(!is_public(&text).unwrap());
        }
    }

    #[test]
    fn no_two_services_have_one_alias() {
        assert_eq!(alias_of("s3").unwrap(), "alias/aws/s3");
        assert_eq!(alias_of("ec2").unwrap(), "alias/aws/ebs");
        assert_eq!(alias_of("ebs"), None);
    }
}
