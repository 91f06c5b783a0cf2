//! Callers of another account: each operation that reaches across by what the key's policy, the caller's policies, a
//! denial and a grant say, and that no other operation does.

use super::key_states::{body, kind};
use super::*;
use crate::policy::{KMS_ACTIONS, key_supports};

/// Where a denial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deny {
    Nowhere,
    KeyPolicy,
    Identity,
}

/// A user of the other account, by what speaks for and against it.
#[derive(Clone, Debug)]
struct Outsider {
    name: String,
    by_key: bool,
    by_identity: bool,
    granted: bool,
    deny: Deny,
}

impl Outsider {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for deny in [Deny::Nowhere, Deny::KeyPolicy, Deny::Identity] {
            for bits in 0..8 {
                let name = format!("outsider{:02}", all.len());
                let (by_key, by_identity, granted) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                all.push(Self { name, by_key, by_identity, granted, deny });
            }
        }
        all
    }

    fn arn(&self) -> String {
        format!("arn:aws:iam::{OTHER}:user/{}", self.name)
    }

    /// Its entry of identities.toml.
    fn entry(&self) -> String {
        let statement = |effect: &str| {
            format!(
                r#"'''{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}","Action":"kms:*","Resource":"*"}}}}'''"#
            )
        };
        let allow = self.by_identity.then(|| statement("Allow"));
        let deny = (self.deny == Deny::Identity).then(|| statement("Deny"));
        let policies: Vec<String> = allow.into_iter().chain(deny).collect();
        user(OTHER, &self.name, &format!("[{}]", policies.join(",")))
    }

    /// What decides a call, as events begin to name it: whether it is allowed, and by what.
    fn expected(&self, action: &str) -> (bool, &'static str) {
        let granted = self.granted && (action == "RetireGrant" || grantable(action));
        // Whether a grant may be retired is for the grant to say, not for policies.
        let by_policies = self.by_key && self.by_identity && action != "RetireGrant";
        match self.deny {
            Deny::KeyPolicy => (false, "KeyPolicy/No"),
            Deny::Identity => (false, "IdentityPolicy/"),
            Deny::Nowhere if by_policies => (true, "IdentityPolicy/"),
            Deny::Nowhere if granted => (true, "Grant/"),
            Deny::Nowhere => (false, "Default"),
        }
    }
}

/// Whether a grant can be for an operation.
fn grantable(action: &str) -> bool {
    crate::policy::GrantOperations::known().any(|known| known == action)
}

/// A key of the owner's account that says yes and no to the outsiders, with its grants.
async fn shared_key(admin: &Client, (spec, usage): (&str, &str), outsiders: &[Outsider]) -> (String, Vec<String>) {
    let arns = |chosen: fn(&Outsider) -> bool| -> Vec<String> {
        outsiders.iter().filter(|outsider| chosen(outsider)).map(Outsider::arn).collect()
    };
    let statement = |sid: &str, effect: &str, principals: Vec<String>| json!({"Sid": sid, "Effect": effect, "Principal": {"AWS": principals}, "Action": "kms:*", "Resource": "*"});
    let policy = json!({"Version": "2012-10-17", "Statement": [
        statement("Owner", "Allow", vec![format!("arn:aws:iam::{ACCOUNT}:root")]),
        statement("Yes", "Allow", arns(|outsider| outsider.by_key)),
        statement("No", "Deny", arns(|outsider| outsider.deny == Deny::KeyPolicy)),
    ]});
    let create = json!({"KeySpec": spec, "KeyUsage": usage, "Policy": policy.to_string()});
    let made = ok(admin, "TrentService.CreateKey", create).await.body;
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let operations: Vec<&str> =
        crate::policy::GrantOperations::known().filter(|operation| key_supports(operation, spec, usage)).collect();
    let mut grants = Vec::new();
    for outsider in outsiders.iter().filter(|outsider| outsider.granted) {
        let body = json!({"KeyId": key, "GranteePrincipal": outsider.arn(), "Operations": operations});
        let grant = ok(admin, "TrentService.CreateGrant", body).await.body;
        grants.push(grant["GrantId"].as_str().unwrap().to_owned());
    }
    (key, grants)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_across_accounts_by_key_policy_identity_policy_denial_and_grant() {
    let outsiders = Outsider::all();
    let mut fixture = Fixture::new().await;
    fixture.stop().await;
    let entries: Vec<String> = outsiders.iter().map(Outsider::entry).collect();
    fixture.append_identities(&entries.concat());
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let owner = async |operation: &str, body: Value| ok(&admin, &format!("TrentService.{operation}"), body).await.body;
    // A key of their own account, open to all of them, for the side of ReEncrypt that is not looked at.
    let open = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{OTHER}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Allow", "Principal": {"AWS": outsiders.iter().map(Outsider::arn).collect::<Vec<_>>()},
         "Action": "kms:ReEncrypt*", "Resource": "*"},
    ]});
    let neighbour = fixture.user("neighbour");
    let made = ok(&neighbour, "TrentService.CreateKey", json!({"Policy": open.to_string()})).await.body;
    let own = made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let own_blob = encrypt(&neighbour, &own, b"x", Value::Null).await;

    let clients: Vec<Client> = outsiders.iter().map(|outsider| fixture.user(&outsider.name)).collect();
    let across = || KMS_ACTIONS.iter().filter(|(_, across)| *across).map(|(action, _)| *action);
    let mut keys = BTreeMap::new();
    for kind in across().map(kind).collect::<std::collections::BTreeSet<_>>() {
        keys.insert(kind, shared_key(&admin, kind, &outsiders).await);
    }
    let mut judged = Vec::new();
    for action in across() {
        let (key, grants) = &keys[&kind(action)];
        let blob = async || encrypt(&admin, key, b"x", Value::Null).await;
        let (operation, mut body) = match action {
            "ReEncryptFrom" => ("ReEncrypt", json!({"CiphertextBlob": blob().await, "DestinationKeyId": own})),
            "ReEncryptTo" => ("ReEncrypt", json!({"CiphertextBlob": own_blob, "DestinationKeyId": key})),
            "RetireGrant" => (action, json!({"KeyId": key})),
            _ => (action, body(&owner, action, key).await),
        };
        // Operations that have no dry run ignore it; those that change something have one.
        body["DryRun"] = true.into();
        let mut grants = grants.iter().cycle();
        for (outsider, client) in outsiders.iter().zip(&clients) {
            if action == "RetireGrant" {
                // Its own, or for one who has none somebody's.
                let next = if outsider.granted { grants.next() } else { grants.clone().next() };
                body["GrantId"] = json!(next);
            }
            let answer = client.call(&format!("TrentService.{operation}"), body.clone(), None).await;
            let (allowed, seq) = match answer {
                Ok(answer) => (true, answer.seq),
                Err(ClientError::Service { code, seq, .. }) if code == "DryRunOperationException" => (true, seq),
                Err(ClientError::Service { code, seq, .. }) if code == "AccessDeniedException" => (false, seq),
                other => panic!("{action} {outsider:?}: {other:?}"),
            };
            assert_eq!(allowed, outsider.expected(action).0, "{action} {outsider:?}");
            judged.push((seq.unwrap(), action, outsider.clone()));
        }
    }
    assert_eq!(judged.len(), 20 * 24);
    let events: HashMap<u64, AuditEvent> =
        fixture.events().into_iter().map(|(leaf, event)| (leaf.seq, event)).collect();
    for (seq, action, outsider) in judged {
        let additional = &events[&seq].additional_event_data;
        // What decided kms:ReEncryptFrom is told beside what decided the other side, once that one was asked.
        let source = additional.more.get("sourceDecidedBy").and_then(Value::as_str);
        let decided_by = source.filter(|_| action == "ReEncryptFrom").or(additional.decided_by.as_deref());
        let wanted = outsider.expected(action).1;
        assert!(decided_by.is_some_and(|by| by.starts_with(wanted)), "{action} {outsider:?}: {decided_by:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_operation_reaches_across_accounts() {
    let fixture = Fixture::new().await;
    let (admin, neighbour) = (fixture.admin(), fixture.user("neighbour"));
    let owner = async |operation: &str, body: Value| ok(&admin, &format!("TrentService.{operation}"), body).await.body;
    let open = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": [ACCOUNT, OTHER]}, "Action": "kms:*", "Resource": "*"},
    ]});
    let made = owner("CreateKey", json!({"Policy": open.to_string()})).await;
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap();
    ok(&neighbour, "TrentService.DescribeKey", json!({"KeyId": key})).await;
    let mut asked = 0;
    for (action, _) in KMS_ACTIONS.iter().filter(|(_, across)| !*across) {
        let mut body = match *action {
            // An alias is named in the caller's own account.
            "DeleteAlias" | "ListAliases" => continue,
            "UpdateAlias" => {
                let body = body(&owner, action, key).await;
                let theirs = create_key(&neighbour).await;
                let alias = json!({"AliasName": body["AliasName"], "TargetKeyId": theirs});
                ok(&neighbour, "TrentService.CreateAlias", alias).await;
                body
            }
            "CreateKey" | "ListKeys" | "GenerateRandom" | "ListRetirableGrants" => continue,
            action if action.contains("CustomKeyStore") || action.contains("Region") || action == "ReplicateKey" => {
                continue;
            }
            _ => body(&owner, action, key).await,
        };
        body["DryRun"] = true.into();
        let (code, _) = refused(&neighbour, &format!("TrentService.{action}"), body).await;
        assert_eq!(code, "AccessDeniedException", "{action}");
        asked += 1;
    }
    assert_eq!(asked, 21, "every other operation on keys");
}
