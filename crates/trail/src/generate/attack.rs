//! Attacks to be found: each kind is a short script of calls by somebody who should not make them.
//!
//! A stolen credential keeps its principal and comes from another address with other tools; an insider looks like
//! themselves. Victims, times and amounts are drawn anew for each attack, so that a rule tuned to one seed is shown up by
//! the next. To add a kind: a function here and a line in [`KINDS`].

use super::calendar::{HOUR_US, MINUTE_US, SECOND_US};
use super::call::{Call, Context, Op, Policy};
use super::chance::Chance;
use super::life::Plan;
use super::world::{Caller, CallerId, FOREIGN, KeyId, World};

/// Writes an attack.
type Script = fn(&mut Stage<'_>);

/// Name of each kind and its script.
pub(super) const KINDS: [(&str, Script); 33] = [
    ("mass-decrypt", mass_decrypt),
    ("context-sweep", context_sweep),
    ("key-sweep", key_sweep),
    ("policy-public", policy_public),
    ("policy-external", policy_external),
    ("policy-lockout", policy_lockout),
    ("policy-then-destroy", policy_then_destroy),
    ("policy-then-decrypt", policy_then_decrypt),
    ("external-grant-then-use", external_grant),
    ("grant-to-self", grant_to_self),
    ("grant-broad-then-use", broad_grant),
    ("grants-ended-en-masse", grants_ended),
    ("used-key-disabled", used_key_disabled),
    ("used-key-deleted", used_key_deleted),
    ("many-keys-destroyed", many_keys_destroyed),
    ("material-replaced", material_replaced),
    ("material-deleted", material_deleted),
    ("recon-sweep", recon_sweep),
    ("denied-then-success", denied_then_success),
    ("ciphertext-probing", ciphertext_probing),
    ("resurrected-key", resurrected_key),
    ("create-cancel-churn", create_cancel_churn),
    ("alias-repointed", alias_repointed),
    ("foreign-reencrypt", foreign_reencrypt),
    ("dormant-principal", dormant_principal),
    ("dormant-key", dormant_key),
    ("key-store-detached", key_store_detached),
    ("replica-unwatched", replica_unwatched),
    ("rotation-disabled", rotation_disabled),
    ("service-path-bypassed", service_path_bypassed),
    ("new-signer", new_signer),
    ("destructive-denied", destructive_denied),
    ("root-destroys", root_destroys),
];

/// How long after its last call an attack's effects may still raise alerts.
const AFTERMATH_US: i64 = 10 * MINUTE_US;

/// Victims chosen so far, so that attacks do not share them.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    workloads: usize,
    people: usize,
    powerful: usize,
    forwarded: usize,
    keys: usize,
    special: usize,
}

/// An attack while it is being written.
pub(super) struct Stage<'a> {
    pub(super) world: &'a mut World,
    pub(super) chance: &'a mut Chance,
    pub(super) chosen: &'a mut Chosen,
    /// Number of the attack.
    pub(super) attack: usize,
    pub(super) at_us: i64,
    pub(super) plan: Plan,
    pub(super) principals: Vec<CallerId>,
    pub(super) keys: Vec<KeyId>,
    pub(super) until_us: i64,
}

impl Stage<'_> {
    /// The thief of an application's session, and the application's keys.
    fn workload(&mut self) -> (CallerId, Vec<KeyId>) {
        // A stride that meets everyone before it comes round.
        let index = (self.chosen.workloads * 7 + 3) % self.world.workloads.len();
        self.chosen.workloads += 1;
        let (caller, keys) = self.world.workloads[index].clone();
        (self.thief(caller), keys)
    }

    fn person(&mut self) -> CallerId {
        let index = self.chosen.people % self.world.people.len();
        self.chosen.people += 1;
        let caller = self.world.people[index].0;
        self.thief(caller)
    }

    /// The thief of a credential that may change keys.
    fn powerful(&mut self) -> CallerId {
        let all: Vec<CallerId> = self.world.admins.iter().chain(&self.world.pipelines).copied().collect();
        let caller = all[self.chosen.powerful % all.len()];
        self.chosen.powerful += 1;
        self.thief(caller)
    }

    fn thief(&mut self, victim: CallerId) -> CallerId {
        let victim = self.world.callers[victim].clone();
        let mut thief = victim.stolen(self.chance);
        thief.renew(self.chance, self.at_us);
        self.cast(thief)
    }

    fn stranger(&mut self) -> CallerId {
        let stranger = Caller::user(self.chance, FOREIGN, &format!("collector-{}", self.attack));
        let ip = format!("203.0.113.{}", 1 + self.chance.below(254));
        self.cast(stranger.with(ip, "Boto3/1.40.0 md/Botocore#1.40.0 ua/2.1"))
    }

    fn cast(&mut self, caller: Caller) -> CallerId {
        let id = self.world.add(caller);
        self.principals.push(id);
        id
    }

    /// A key that applications use.
    fn key(&mut self) -> KeyId {
        let index = (self.chosen.keys * 5 + 1) % self.world.app_keys.len();
        self.chosen.keys += 1;
        self.about(self.world.app_keys[index])
    }

    fn about(&mut self, key: KeyId) -> KeyId {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        key
    }

    /// One of a few keys of a kind.
    fn special(&mut self, of: &[KeyId]) -> KeyId {
        let key = of[self.chosen.special % of.len()];
        self.chosen.special += 1;
        self.about(key)
    }

    /// `who` calls, `pause_us` after the call before.
    fn act(&mut self, pause_us: i64, who: CallerId, op: Op) {
        self.push(pause_us, Call::new(who, op));
    }

    fn refused(&mut self, pause_us: i64, who: CallerId, op: Op, error: &'static str) {
        self.push(pause_us, Call::new(who, op).failing(error));
    }

    fn push(&mut self, pause_us: i64, call: Call) {
        self.at_us += pause_us + self.chance.between(0, pause_us / 3);
        self.plan.push((self.at_us, Call { attack: Some(self.attack), ..call }));
        self.until_us = self.at_us + AFTERMATH_US;
    }

    /// An administrator repairs it, some time later; not part of the attack, whose effects last until then.
    fn repaired(&mut self, names: &[&'static str], key: KeyId) {
        let admin = self.world.admins[self.attack % self.world.admins.len()];
        let mut at_us = self.at_us + self.chance.between(20, 40) * MINUTE_US;
        for name in names {
            self.plan.push((at_us, Call::new(admin, Op::Change { name, key })));
            at_us += 20 * SECOND_US;
        }
        self.until_us = at_us + AFTERMATH_US;
    }

    fn decrypt(&mut self, pause_us: i64, who: CallerId, key: KeyId, tenant: u32) {
        let context = Context { tenant, purpose: "orders" };
        self.act(pause_us, who, Op::Use { name: "Decrypt", key, context });
    }
}

fn decrypt_of(key: KeyId, tenant: u32) -> Op {
    Op::Use { name: "Decrypt", key, context: Context { tenant, purpose: "orders" } }
}

fn mass_decrypt(stage: &mut Stage<'_>) {
    let (thief, keys) = stage.workload();
    let key = stage.about(keys[0]);
    for n in 0..stage.chance.between(900, 1_600) {
        stage.decrypt(SECOND_US / 8, thief, key, u32::try_from(n % 5).unwrap_or(0));
    }
}

fn context_sweep(stage: &mut Stage<'_>) {
    let (thief, keys) = stage.workload();
    let key = stage.about(keys[0]);
    for tenant in 0..stage.chance.between(120, 260) {
        stage.decrypt(SECOND_US, thief, key, u32::try_from(tenant).unwrap_or(0));
    }
}

fn key_sweep(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    for _ in 0..stage.chance.between(14, 20) {
        let key = stage.key();
        stage.decrypt(15 * SECOND_US, thief, key, 1);
    }
}

fn put_policy(stage: &mut Stage<'_>, thief: CallerId, key: KeyId, policy: Policy, bypass: bool) {
    stage.act(40 * SECOND_US, thief, Op::Look { name: "GetKeyPolicy", key: Some(key) });
    stage.act(90 * SECOND_US, thief, Op::PutPolicy { key, policy, bypass });
}

fn policy_public(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    put_policy(stage, thief, key, Policy::Public, false);
}

fn policy_external(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    put_policy(stage, thief, key, Policy::Allow(format!("arn:aws:iam::{FOREIGN}:root")), false);
}

fn policy_lockout(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    let own = stage.world.callers[thief].arn.clone();
    put_policy(stage, thief, key, Policy::Only(own), true);
}

fn policy_then_destroy(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    let own = stage.world.callers[thief].arn.clone();
    put_policy(stage, thief, key, Policy::Only(own), true);
    stage.act(5 * MINUTE_US, thief, Op::ScheduleDeletion { key, days: 7 });
    stage.repaired(&["CancelKeyDeletion", "EnableKey"], key);
}

fn policy_then_decrypt(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    let person = stage.person();
    let arn = stage.world.callers[person].arn.clone();
    put_policy(stage, thief, key, Policy::Allow(arn), false);
    for n in 0..12 {
        stage.decrypt(2 * MINUTE_US, person, key, n);
    }
}

fn external_grant(stage: &mut Stage<'_>) {
    let (thief, key, stranger) = (stage.powerful(), stage.key(), stage.stranger());
    let grantee = stage.world.callers[stranger].arn.clone();
    stage.act(MINUTE_US, thief, Op::CreateGrant { key, grantee, operations: &["Decrypt"], context: None });
    for n in 0..stage.chance.between(8, 20) {
        stage.decrypt(20 * SECOND_US, stranger, key, u32::try_from(n % 4).unwrap_or(0));
    }
}

fn grant_to_self(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    let caller = &stage.world.callers[thief];
    let role = match &caller.credential {
        super::world::Credential::Session { role, .. } => role.clone(),
        _ => caller.name.clone(),
    };
    let grantee = format!("arn:aws:iam::{}:role/{role}", caller.account);
    stage.act(MINUTE_US, thief, Op::CreateGrant { key, grantee, operations: &["Decrypt"], context: None });
    for n in 0..6 {
        stage.decrypt(30 * SECOND_US, thief, key, n);
    }
}

fn broad_grant(stage: &mut Stage<'_>) {
    let (thief, key, person) = (stage.powerful(), stage.key(), stage.person());
    let grantee = stage.world.callers[person].arn.clone();
    let operations = &["Decrypt", "CreateGrant", "RetireGrant"];
    stage.act(MINUTE_US, thief, Op::CreateGrant { key, grantee, operations, context: None });
    for n in 0..8 {
        stage.decrypt(45 * SECOND_US, person, key, n);
    }
}

fn grants_ended(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    stage.act(30 * SECOND_US, thief, Op::Look { name: "ListGrants", key: Some(key) });
    for _ in 0..stage.chance.between(14, 25) {
        stage.act(15 * SECOND_US, thief, Op::EndGrant { name: "RevokeGrant", key });
    }
}

/// The most used key of an application, whoever the thief is.
fn used_key(stage: &mut Stage<'_>) -> KeyId {
    let index = (stage.chosen.workloads * 7 + 3) % stage.world.workloads.len();
    stage.chosen.workloads += 1;
    let key = stage.world.workloads[index].1[0];
    stage.about(key)
}

fn used_key_disabled(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), used_key(stage));
    stage.act(MINUTE_US, thief, Op::Change { name: "DisableKey", key });
    stage.repaired(&["EnableKey"], key);
}

fn used_key_deleted(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), used_key(stage));
    stage.act(MINUTE_US, thief, Op::ScheduleDeletion { key, days: 7 });
    stage.repaired(&["CancelKeyDeletion", "EnableKey"], key);
}

fn many_keys_destroyed(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let mut repairs: Vec<(KeyId, &[&'static str])> = Vec::new();
    for n in 0..stage.chance.between(4, 7) {
        let key = stage.key();
        if n % 3 == 0 {
            stage.act(30 * SECOND_US, thief, Op::Change { name: "DisableKey", key });
            // Nothing is pending: KMS would refuse CancelKeyDeletion.
            repairs.push((key, &["EnableKey"]));
        } else {
            stage.act(30 * SECOND_US, thief, Op::ScheduleDeletion { key, days: 7 });
            repairs.push((key, &["CancelKeyDeletion", "EnableKey"]));
        }
    }
    for (key, names) in repairs {
        stage.repaired(names, key);
    }
}

fn material_replaced(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let imported = stage.world.imported_keys.clone();
    let key = stage.special(&imported);
    stage.act(MINUTE_US, thief, Op::Look { name: "GetParametersForImport", key: Some(key) });
    stage.act(2 * MINUTE_US, thief, Op::ImportMaterial { key, valid_days: Some(1) });
}

fn material_deleted(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let imported = stage.world.imported_keys.clone();
    let key = stage.special(&imported);
    stage.act(MINUTE_US, thief, Op::DeleteMaterial { key });
}

fn recon_sweep(stage: &mut Stage<'_>) {
    let (thief, _) = stage.workload();
    stage.act(5 * SECOND_US, thief, Op::Look { name: "ListKeys", key: None });
    stage.act(5 * SECOND_US, thief, Op::Look { name: "ListAliases", key: None });
    for _ in 0..stage.chance.between(6, 12) {
        let key = stage.key();
        for name in ["DescribeKey", "GetKeyPolicy", "ListGrants", "ListResourceTags"] {
            stage.act(4 * SECOND_US, thief, Op::Look { name, key: Some(key) });
        }
    }
}

fn denied_then_success(stage: &mut Stage<'_>) {
    let (thief, keys) = stage.workload();
    for n in 0..stage.chance.between(40, 70) {
        let key = stage.world.app_keys[usize::try_from(n).unwrap_or(0) % stage.world.app_keys.len()];
        stage.refused(3 * SECOND_US, thief, decrypt_of(key, 1), "AccessDenied");
    }
    let key = stage.about(keys[0]);
    stage.refused(5 * SECOND_US, thief, decrypt_of(key, 1), "AccessDenied");
    stage.decrypt(20 * SECOND_US, thief, key, 1);
}

fn ciphertext_probing(stage: &mut Stage<'_>) {
    let (thief, keys) = stage.workload();
    let key = stage.about(keys[0]);
    for n in 0..stage.chance.between(12, 40) {
        let error = if n % 4 == 3 { "IncorrectKeyException" } else { "InvalidCiphertextException" };
        stage.refused(8 * SECOND_US, thief, decrypt_of(key, 1), error);
    }
}

fn resurrected_key(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let key = stage.world.retired_keys.first().copied().unwrap_or(0);
    let key = stage.about(key);
    // Retired weeks ago, as far as the log shows.
    (stage.world.keys[key].state, stage.world.keys[key].deletion_us) =
        ("PendingDeletion", Some(stage.at_us + 20 * 24 * HOUR_US));
    stage.act(MINUTE_US, thief, Op::Change { name: "CancelKeyDeletion", key });
    stage.act(MINUTE_US, thief, Op::Change { name: "EnableKey", key });
    for n in 0..8 {
        stage.decrypt(30 * SECOND_US, thief, key, n);
    }
}

fn create_cancel_churn(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let account = stage.world.callers[thief].account;
    for n in 0..4 {
        let made = stage.world.make_key(stage.chance, account, &format!("tmp-{}-{n}", stage.attack));
        stage.about(made);
        stage.act(2 * MINUTE_US, thief, Op::CreateKey { key: made });
        let other = stage.world.retired_keys[(stage.attack + n) % stage.world.retired_keys.len()];
        stage.about(other);
        stage.world.keys[other].state = "PendingDeletion";
        stage.act(MINUTE_US, thief, Op::Change { name: "CancelKeyDeletion", key: other });
    }
}

fn alias_repointed(stage: &mut Stage<'_>) {
    let (thief, key) = (stage.powerful(), stage.key());
    let imported = stage.world.imported_keys.clone();
    let own = stage.special(&imported);
    let alias = stage.world.keys[key].description.clone();
    stage.act(MINUTE_US, thief, Op::Alias { name: "UpdateAlias", alias, key: own, before: Some(key) });
}

fn foreign_reencrypt(stage: &mut Stage<'_>) {
    let (thief, keys) = stage.workload();
    let key = stage.about(keys[0]);
    for n in 0..stage.chance.between(40, 120) {
        let context = Context { tenant: u32::try_from(n % 6).unwrap_or(0), purpose: "orders" };
        stage.act(2 * SECOND_US, thief, Op::ReEncryptAway { from: key, context });
    }
}

fn dormant_principal(stage: &mut Stage<'_>) {
    let (former, _) = stage.world.dormant[stage.attack % stage.world.dormant.len()];
    let thief = stage.thief(former);
    let key = stage.key();
    for n in 0..9 {
        stage.decrypt(40 * SECOND_US, thief, key, n);
    }
}

fn dormant_key(stage: &mut Stage<'_>) {
    let (_, key) = stage.world.dormant[stage.attack % stage.world.dormant.len()];
    let (key, person) = (stage.about(key), stage.person());
    for n in 0..9 {
        stage.decrypt(40 * SECOND_US, person, key, n);
    }
}

fn key_store_detached(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    stage.act(MINUTE_US, thief, Op::KeyStore { name: "DisconnectCustomKeyStore" });
    stage.act(3 * MINUTE_US, thief, Op::KeyStore { name: "DeleteCustomKeyStore" });
}

fn replica_unwatched(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    let global = stage.world.replicable_keys.clone();
    let key = stage.special(&global);
    let region = "ap-southeast-3";
    stage.act(MINUTE_US, thief, Op::Replicate { key, region });
    let mut replica = stage.world.keys[key].clone();
    replica.arn = replica.arn.replace(super::world::REGION, region);
    replica.region = region.to_owned();
    replica.multi_region = Some(("REPLICA", super::world::REGION.to_owned()));
    stage.world.keys.push(replica);
    let replica = stage.about(stage.world.keys.len() - 1);
    for n in 0..8 {
        stage.decrypt(30 * SECOND_US, thief, replica, n);
    }
}

fn rotation_disabled(stage: &mut Stage<'_>) {
    let thief = stage.powerful();
    for _ in 0..3 {
        let key = stage.key();
        stage.act(MINUTE_US, thief, Op::Change { name: "DisableKeyRotation", key });
    }
}

fn service_path_bypassed(stage: &mut Stage<'_>) {
    let (caller, keys) = stage.world.forwarded[stage.chosen.forwarded % stage.world.forwarded.len()].clone();
    stage.chosen.forwarded += 1;
    let thief = stage.thief(caller);
    let key = stage.about(keys[0]);
    for n in 0..12 {
        stage.decrypt(20 * SECOND_US, thief, key, n);
    }
}

fn new_signer(stage: &mut Stage<'_>) {
    let person = stage.person();
    let signing = stage.world.signing_keys.clone();
    let key = stage.special(&signing);
    for _ in 0..stage.chance.between(20, 60) {
        stage.act(6 * SECOND_US, person, Op::Sign { key });
    }
}

fn destructive_denied(stage: &mut Stage<'_>) {
    let person = stage.person();
    for _ in 0..3 {
        let key = stage.key();
        stage.refused(30 * SECOND_US, person, Op::Change { name: "DisableKey", key }, "AccessDenied");
        stage.refused(30 * SECOND_US, person, Op::ScheduleDeletion { key, days: 7 }, "AccessDenied");
        let policy = Policy::Public;
        stage.refused(30 * SECOND_US, person, Op::PutPolicy { key, policy, bypass: false }, "AccessDenied");
    }
}

fn root_destroys(stage: &mut Stage<'_>) {
    let key = stage.key();
    let root = Caller::root(stage.chance, stage.world.keys[key].account);
    let ip = format!("203.0.113.{}", 1 + stage.chance.below(254));
    let root = stage.cast(root.with(ip, "Mozilla/5.0 (console)"));
    stage.act(MINUTE_US, root, Op::ScheduleDeletion { key, days: 7 });
    stage.repaired(&["CancelKeyDeletion", "EnableKey"], key);
}
