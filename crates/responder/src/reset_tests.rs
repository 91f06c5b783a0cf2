//! A tripped breaker and the people who let it work again: two, with requests of the KMS, for this trip and once.
#![allow(clippy::unwrap_used)]

use crate::act::Control;
use crate::config::{Limits, Protected};
use crate::guard::Outside;
use crate::ingest::{Rules, take_in};
use crate::intake::RawAlert;
use crate::notify::queue;
use crate::notify::receivers::{Kind, Receiver};
use crate::playbook::Severity;
use crate::reset::{self, Resetter};
use crate::standing::{self, EVERYTHING, StandingError};
use crate::store::Store;
use crate::testing::{Bench, FakeKms, event, principal_arn, shipped_playbooks};
use keytrail_kms::clock::FakeClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const NOON_US: i64 = 1_767_614_400_000_000;

struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    kms: Arc<FakeKms>,
    clock: Arc<FakeClock>,
    resetter: Resetter,
}

impl Rig {
    /// A responder that mallory made trip.
    fn tripped() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let kms = FakeKms::open(&dir.path().join("effects"));
        let clock = Arc::new(FakeClock::default());
        let resetter = Resetter {
            store: store.clone(),
            kms: Arc::<FakeKms>::clone(&kms) as Arc<dyn Control>,
            clock: Arc::<FakeClock>::clone(&clock) as _,
            told: Arc::new(Notify::new()),
        };
        let mail = Receiver { name: "mail".into(), kind: Kind::Smtp, recipients: vec![] };
        store.write_now(|tx| queue::set_receivers(tx, &[mail], NOON_US)).unwrap();
        let rules = Rules {
            playbooks: shipped_playbooks(),
            enforce: true,
            limits: Limits { disable_keys_per_hour: 0, ..Limits::default() },
            protected: Protected::default(),
            tell_from: Severity::Medium,
            windows: Vec::new(),
            aws: Vec::new(),
        };
        let opened = event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0").tagged("on-exposure", "disable");
        let alert = Bench::new().alert("key-policy-public", vec![opened]).severity(Severity::High).verified();
        let raw = RawAlert { source: "trail.db".into(), position: 1, json: Vec::new(), signature: Vec::new() };
        store.write_now(|tx| take_in(tx, &rules, &raw, &Ok(alert), &Outside::default(), NOON_US)).unwrap();
        let rig = Self { _dir: dir, store, kms, clock, resetter };
        assert!(rig.is_tripped());
        rig
    }

    fn is_tripped(&self) -> bool {
        self.store.read_now(|db| standing::tripped(db, EVERYTHING)).unwrap().is_some()
    }

    fn want(&self) -> Result<(), StandingError> {
        self.store.write_now(|tx| Ok(reset::want(tx, EVERYTHING, "ann", NOON_US))).unwrap()
    }

    /// Wanted, and asked for; the request.
    async fn asked(&self) -> String {
        self.want().unwrap();
        self.resetter.look().await.unwrap();
        self.store.read_now(|db| reset::request(db, EVERYTHING)).unwrap().unwrap()
    }

    fn paged(&self, text: &str) -> bool {
        let sql = "SELECT count(*) FROM notices WHERE body LIKE '%' || ?1 || '%'";
        let found: i64 = self.store.read_now(|db| Ok(db.query_row(sql, [text], |row| row.get(0))?)).unwrap();
        found > 0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_reset_it_once_and_the_one_that_asked_is_not_enough() {
    let rig = Rig::tripped();
    let request = rig.asked().await;
    let shown = rig.kms.request().unwrap();
    assert_eq!((shown.operation.as_str(), shown.quorum), ("reset_circuit_breaker", 2));
    assert!(rig.paged(&format!("keytrail approval approve {request}")));
    assert!(matches!(rig.want(), Err(StandingError::Nothing(text)) if text.contains(&request)), "it waits already");
    rig.kms.agree(&request, "alice").unwrap();
    assert!(rig.kms.agree(&request, "alice").is_err(), "one person twice");
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped());
    rig.kms.agree(&request, "robert").unwrap();
    rig.resetter.look().await.unwrap();
    assert!(!rig.is_tripped());
    let entry = rig.store.read_now(|db| standing::unreported(db, 9)).unwrap().pop().unwrap();
    assert_eq!(entry.kind, standing::Kind::Reset);
    assert_eq!(entry.by, format!("{} and {}", principal_arn("alice"), principal_arn("robert")));
    rig.resetter.look().await.unwrap();
    let calls: Vec<String> = rig.kms.effects().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls, ["OpenApprovalRequest", "ConsumeApprovalRequest"], "once");
    assert!(matches!(rig.want(), Err(StandingError::Nothing(_))), "nothing is tripped");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_who_asks_nor_whom_it_is_about_can_agree() {
    let rig = Rig::tripped();
    let request = rig.asked().await;
    assert!(rig.kms.request().unwrap().suspects.contains(&principal_arn("mallory")));
    for person in ["responder", "mallory"] {
        assert!(rig.kms.agree(&request, person).is_err(), "{person}");
    }
    rig.kms.agree(&request, "alice").unwrap();
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_agreed_to_in_an_hour_is_asked_for_anew() {
    let rig = Rig::tripped();
    let request = rig.asked().await;
    rig.kms.agree(&request, "alice").unwrap();
    rig.kms.wait(Duration::from_hours(1));
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped() && rig.paged("is expired"));
    assert_ne!(rig.asked().await, request);
    assert!(rig.kms.agree(&request, "robert").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_of_one_trip_do_not_reset_the_next() {
    let rig = Rig::tripped();
    let first = rig.asked().await;
    rig.kms.agree(&first, "alice").unwrap();
    rig.kms.agree(&first, "robert").unwrap();
    // Another way was found meanwhile, and it tripped again.
    rig.store
        .write_now(|tx| {
            standing::reset_by(tx, EVERYTHING, ["carol", "dave"], NOON_US + 1).unwrap();
            standing::trip(tx, EVERYTHING, "3 keys", NOON_US + 2)
        })
        .unwrap();
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped(), "granted for another trip");
    let second = rig.asked().await;
    assert_ne!(second, first);
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_that_cannot_be_reached_is_asked_until_the_time_is_over() {
    let rig = Rig::tripped();
    rig.want().unwrap();
    rig.kms.unreachable_for(1);
    rig.resetter.look().await.unwrap();
    assert_eq!(rig.store.read_now(|db| reset::request(db, EVERYTHING)).unwrap(), None);
    rig.resetter.look().await.unwrap();
    assert!(rig.store.read_now(|db| reset::request(db, EVERYTHING)).unwrap().is_some());
    rig.kms.unreachable_for(u32::MAX);
    rig.clock.advance(Duration::from_hours(2));
    rig.resetter.look().await.unwrap();
    assert!(rig.is_tripped() && rig.paged("could not be asked in time"));
}
