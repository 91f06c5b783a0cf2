//! Approval by a second person: dual control of keys, each misuse of it, and the responder's requests.

use super::sts::{Temporary, sts, temporary};
use super::*;
use crate::approval;
use crate::auth::totp::Seed;

const SEED: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

/// People with administrator's rights and a device each, a role that all of them may open, on a clock that the test moves.
struct Office {
    fixture: Fixture,
    clock: Arc<FakeClock>,
}

/// Credentials with or without a session's token.
enum Who<'a> {
    Keys(Credentials),
    Session(&'a Temporary),
}

impl Office {
    async fn new() -> Self {
        let clock = Arc::new(FakeClock::new(SystemClock.now_us()));
        let mut fixture = Fixture::with_clock(Arc::<FakeClock>::clone(&clock)).await;
        fixture.stop().await;
        for name in ["alice", "bobby", "carol"] {
            fixture.append_identities(&user(ACCOUNT, name, "[\"AdministratorAccess\"]"));
            fixture.append_identities(&format!(
                "[[mfa_device]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\nuser = \"{name}\"\nseed = \"{SEED}\"\n"
            ));
        }
        fixture.append_identities(&format!(
            "[[role]]\naccount = \"{ACCOUNT}\"\nname = \"ops\"\npolicies = [\"AdministratorAccess\"]\ntrust = \
             '{{\"Version\":\"2012-10-17\",\"Statement\":{{\"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"{ACCOUNT}\"}},\
             \"Action\":\"sts:AssumeRole\"}}}}'\n"
        ));
        fixture.start().await.unwrap();
        Self { fixture, clock }
    }

    fn at(&self) -> u64 {
        self.fixture.clock.now_us()
    }

    /// A new session of a person, or of the role opened by it, with a code of now.
    async fn with_code(&self, name: &str, role: Option<&str>) -> Temporary {
        // Each code is good once.
        self.clock.advance(Duration::from_secs(60));
        let code = Seed::from_base32(SEED).unwrap().code_at(self.at()).to_string();
        let serial = format!("arn:aws:iam::{ACCOUNT}:mfa/{name}");
        let role_arn = role.map(|role| format!("arn:aws:iam::{ACCOUNT}:role/{role}"));
        let mut pairs = vec![("SerialNumber", serial.as_str()), ("TokenCode", code.as_str())];
        match &role_arn {
            Some(arn) => pairs.extend([("Action", "AssumeRole"), ("RoleArn", arn), ("RoleSessionName", name)]),
            None => pairs.push(("Action", "GetSessionToken")),
        }
        let (status, xml) = sts(&self.fixture, &user_credentials(name), None, &pairs).await;
        assert_eq!(status, 200, "{xml}");
        temporary(&xml)
    }

    /// The answer, or the exception with its sentence.
    async fn call(&self, who: &Who<'_>, target: &str, body: &Value) -> Result<Value, (String, String)> {
        let (keys, token) = match who {
            Who::Keys(keys) => (keys, None),
            Who::Session(session) => (&session.credentials, Some(session.token.as_str())),
        };
        let mut headers = vec![("x-amz-target", target)];
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        let signing = Some((keys, REGION, "kms", self.at()));
        let (status, text) = raw(&self.fixture, &headers, body.to_string().as_bytes(), signing).await;
        let answer: Value = if text.is_empty() { json!({}) } else { serde_json::from_str(&text).unwrap() };
        let of = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        if status == 200 { Ok(answer) } else { Err((of("__type"), of("message"))) }
    }

    async fn alice(&self, target: &str, body: &Value) -> Result<Value, (String, String)> {
        self.call(&Who::Keys(user_credentials("alice")), target, body).await
    }

    async fn request(&self, id: &str) -> Value {
        self.alice("KeytrailService.DescribeApprovalRequest", &json!({"RequestId": id})).await.unwrap()
    }

    /// What somebody who read the request sends.
    async fn yes(&self, id: &str) -> Value {
        let request = self.request(id).await;
        json!({"RequestId": id, "Subject": request["Subject"], "TargetState": request["TargetState"]})
    }

    async fn approve(&self, who: &Temporary, id: &str) -> Result<Value, (String, String)> {
        self.call(&Who::Session(who), "KeytrailService.Approve", &self.yes(id).await).await
    }

    /// A key under dual control.
    async fn key(&self) -> String {
        let tags = json!([{"TagKey": "keytrail:dual-control", "TagValue": "required"}]);
        let made = self.alice("TrentService.CreateKey", &json!({"Tags": tags})).await.unwrap();
        made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// The request that a held call names.
    async fn held(&self, target: &str, body: &Value) -> String {
        let (code, message) = self.alice(target, body).await.unwrap_err();
        assert_eq!(code, "AccessDeniedException", "{message}");
        let id = message.rsplit(' ').next().unwrap().to_owned();
        assert!(message.contains(&format!("keytrail approval approve {id}")), "{message}");
        id
    }

    fn last(&self) -> AuditEvent {
        self.fixture.events().pop().unwrap().1
    }

    async fn state(&self, key: &str) -> String {
        let described = self.alice("TrentService.DescribeKey", &json!({"KeyId": key})).await.unwrap();
        described["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned()
    }
}

fn code(outcome: Result<Value, (String, String)>) -> String {
    outcome.unwrap_err().0
}

const SCHEDULE: &str = "TrentService.ScheduleKeyDeletion";

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_second_person_and_happens_once() {
    let mut office = Office::new().await;
    let key = office.key().await;
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    let id = office.held(SCHEDULE, &body).await;
    let event = office.last();
    assert_eq!((event.event_name.as_str(), event.error_code.as_deref()), ("ScheduleKeyDeletion", Some("AccessDenied")));
    let additional = event.additional_event_data;
    assert_eq!(additional.more["approvalRequestId"], id);
    assert_eq!(additional.decided_by, Some(format!("DualControl/{id}")));
    assert!(additional.mutation.is_some() && additional.after.is_none());
    assert_eq!(office.held(SCHEDULE, &body).await, id, "asking again opens no second request");
    assert_eq!(office.state(&key).await, "Enabled");

    // The request outlives a restart, and so does its approval.
    office.fixture.stop().await;
    office.fixture.start().await.unwrap();
    let listed = office.alice("KeytrailService.ListApprovalRequests", &json!({})).await.unwrap();
    assert_eq!(listed["ApprovalRequests"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&listed["ApprovalRequests"][0]["RequestId"], &listed["ApprovalRequests"][0]["State"]),
        (&json!(id), &json!("waiting"))
    );
    let request = office.request(&id).await;
    assert_eq!(request["Parameters"], json!({"keyId": key, "pendingWindowInDays": 7}));
    let bob = office.with_code("bobby", None).await;
    let answer = office.approve(&bob, &id).await.unwrap();
    assert_eq!(answer["State"], "granted");
    let event = office.last();
    assert_eq!((event.event_name.as_str(), event.read_only), ("Approve", false));
    assert_eq!(
        event.additional_event_data.after.unwrap()["approvals"][0]["principalArn"],
        format!("arn:aws:iam::{ACCOUNT}:user/bobby")
    );
    office.fixture.stop().await;
    office.fixture.start().await.unwrap();

    // Another body and another principal are another call.
    let other = json!({"KeyId": key, "PendingWindowInDays": 8});
    assert_ne!(office.held(SCHEDULE, &other).await, id);
    let (refusal, _) = office.call(&Who::Session(&bob), SCHEDULE, &body).await.unwrap_err();
    assert_eq!(refusal, "AccessDeniedException", "the approver did not ask for it");
    office.alice(SCHEDULE, &body).await.unwrap();
    let more = office.last().additional_event_data.more;
    assert_eq!(
        (&more["approvalRequestId"], &more["approvedBy"][0]["principalArn"]),
        (&json!(id), &json!(format!("arn:aws:iam::{ACCOUNT}:user/bobby")))
    );
    assert_eq!(office.state(&key).await, "PendingDeletion");
    assert_eq!(office.request(&id).await["State"], "used");
    office.alice("TrentService.CancelKeyDeletion", &json!({"KeyId": key})).await.unwrap();
    assert_ne!(office.held(SCHEDULE, &body).await, id, "used up");
    assert_eq!(code(office.approve(&bob, &id).await), "KMSInvalidStateException", "and not to be had again");
    office.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_misuse_of_an_approval_is_refused() {
    let mut office = Office::new().await;
    let key = office.key().await;
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    let id = office.held(SCHEDULE, &body).await;
    let yes = office.yes(&id).await;
    let approve = "KeytrailService.Approve";
    let denied = |outcome: Result<Value, (String, String)>, why: &str| {
        let (code, message) = outcome.unwrap_err();
        assert!(code == "AccessDeniedException" && message.contains(why), "{code} {message}, wanted {why}");
    };
    denied(office.alice(approve, &yes).await, "second factor");
    denied(office.call(&Who::Keys(user_credentials("bobby")), approve, &yes).await, "second factor");
    assert_eq!(office.last().additional_event_data.decided_by.as_deref(), Some("Mfa"));
    let alice = office.with_code("alice", None).await;
    denied(office.approve(&alice, &id).await, "whoever asked");
    assert_eq!(office.last().additional_event_data.decided_by, Some(format!("DualControl/{id}")));
    let as_role = office.with_code("alice", Some("ops")).await;
    denied(office.approve(&as_role, &id).await, "whoever asked");
    let neighbour = Who::Keys(user_credentials("neighbour"));
    assert_eq!(code(office.call(&neighbour, approve, &yes).await), "NotFoundException");
    let powerless = Who::Keys(user_credentials("powerless"));
    denied(office.call(&powerless, approve, &yes).await, "not authorized");

    let bob = office.with_code("bobby", None).await;
    let with = |name: &str, value: &str| {
        let mut other = yes.clone();
        other[name] = value.into();
        other
    };
    let hash = "0".repeat(64);
    denied(office.call(&Who::Session(&bob), approve, &with("Subject", &hash)).await, "subject");
    denied(office.call(&Who::Session(&bob), approve, &with("TargetState", &hash)).await, "target state");
    office.clock.advance(Duration::from_secs(approval::MFA_AGE_SECS_MAX + 1));
    denied(office.approve(&bob, &id).await, "second factor");

    // What was to be approved is not there any more.
    office.alice("TrentService.DisableKey", &json!({"KeyId": key})).await.unwrap();
    let bob = office.with_code("bobby", None).await;
    denied(office.approve(&bob, &id).await, "has changed");
    office.alice("TrentService.EnableKey", &json!({"KeyId": key})).await.unwrap();
    office.approve(&bob, &id).await.unwrap();
    office.alice("TrentService.DisableKey", &json!({"KeyId": key})).await.unwrap();
    let next = office.held(SCHEDULE, &body).await;
    assert_ne!(next, id, "an approval for an enabled key is none for a disabled one");
    assert_eq!(office.last().additional_event_data.more["staleApprovalRequestId"], id);
    assert_eq!(office.request(&id).await["State"], "stale");

    // Too late: to approve, and to use an approval.
    let bob = office.with_code("bobby", None).await;
    office.approve(&bob, &next).await.unwrap();
    office.clock.advance(Duration::from_secs(24 * 3_600));
    assert_eq!(office.request(&next).await["State"], "expired");
    let last = office.held(SCHEDULE, &body).await;
    assert_ne!(last, next);
    let bob = office.with_code("bobby", None).await;
    assert_eq!(code(office.approve(&bob, &next).await), "KMSInvalidStateException");

    // A no ends it.
    let reject = json!({"RequestId": last, "Reason": "not today"});
    office.call(&Who::Session(&bob), "KeytrailService.Reject", &reject).await.unwrap();
    assert_eq!(code(office.approve(&bob, &last).await), "KMSInvalidStateException");
    assert_ne!(office.held(SCHEDULE, &body).await, last);
    office.fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_destroys_or_widens_or_frees_waits_and_break_glass_passes() {
    let mut office = Office::new().await;
    let key = office.key().await;
    let named = json!({"KeyId": key});
    let policy =
        office.alice("TrentService.GetKeyPolicy", &named).await.unwrap()["Policy"].as_str().unwrap().to_owned();
    let put = |policy: &str| json!({"KeyId": key, "Policy": policy});
    let deny = r#"{"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::123456789012:user/powerless"},"Action":"kms:Decrypt","Resource":"*"}"#;
    let mut narrow: Value = serde_json::from_str(&policy).unwrap();
    narrow["Statement"].as_array_mut().unwrap().push(serde_json::from_str(deny).unwrap());
    office.alice("TrentService.PutKeyPolicy", &put(&narrow.to_string())).await.unwrap();
    let first = office.last().event_id;
    office.held("TrentService.PutKeyPolicy", &put(&policy)).await;
    assert!(office.last().additional_event_data.more.get("policy").is_none(), "no policy was set");

    let tag = |value: &str| json!({"KeyId": key, "Tags": [{"TagKey": "keytrail:dual-control", "TagValue": value}]});
    office.held("TrentService.UntagResource", &json!({"KeyId": key, "TagKeys": ["keytrail:dual-control", "x"]})).await;
    office.held("TrentService.TagResource", &tag("off")).await;
    office.alice("TrentService.TagResource", &tag("Required")).await.unwrap();
    office.held(SCHEDULE, &named).await;
    office
        .alice("TrentService.TagResource", &json!({"KeyId": key, "Tags": [{"TagKey": "x", "TagValue": "y"}]}))
        .await
        .unwrap();
    office.alice("TrentService.UntagResource", &json!({"KeyId": key, "TagKeys": ["x"]})).await.unwrap();

    // Going back to an earlier policy widens as well, unless the responder does it.
    let sha = |text: &str| hex::encode(crate::chain::leaf::sha256(&[text.as_bytes()]));
    let created =
        office.fixture.events().iter().find(|(_, event)| event.event_name == "CreateKey").unwrap().1.event_id.clone();
    let restore = json!({"KeyId": key, "CurrentPolicySha256": sha(&narrow.to_string()), "WantedEventId": created});
    office.held("KeytrailService.RestoreKeyPolicy", &restore).await;
    let again = json!({"KeyId": key, "CurrentPolicySha256": sha(&narrow.to_string()), "WantedEventId": first});
    office.alice("KeytrailService.RestoreKeyPolicy", &again).await.unwrap();
    let responder = Credentials::read(&office.fixture.dir().join("service-credentials"), "responder").unwrap();
    office.call(&Who::Keys(responder), "KeytrailService.RestoreKeyPolicy", &restore).await.unwrap();

    let break_glass = Credentials::read(&office.fixture.dir().join("break-glass"), "break-glass").unwrap();
    office.call(&Who::Keys(break_glass), SCHEDULE, &named).await.unwrap();
    assert_eq!(office.last().additional_event_data.decided_by.as_deref(), Some("BuiltIn"));
    office.fixture.stop().await;
}

/// No tag: a statement of the key's policy, or of somebody's own, asks for the second person.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_policies_refuse_for_want_of_approval_alone_waits_for_it() {
    let mut office = Office::new().await;
    office.fixture.stop().await;
    let approved = r#"["{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"kms:ScheduleKeyDeletion\",\"Resource\":\"*\",\"Condition\":{\"Bool\":{\"keytrail:ApprovedBySecondPrincipal\":\"true\"}}}]}"]"#;
    office.fixture.append_identities(&user(ACCOUNT, "dave", approved));
    office.fixture.start().await.unwrap();
    let made = office.alice("TrentService.CreateKey", &json!({})).await.unwrap();
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let owner = json!({"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")},
        "Action": "kms:*", "Resource": "*"});
    let asks = json!({"Sid": "TwoPeople", "Effect": "Deny", "Principal": "*", "Resource": "*",
        "Action": ["kms:ScheduleKeyDeletion", "kms:DeleteImportedKeyMaterial", "kms:PutKeyPolicy"],
        "Condition": {"Bool": {"keytrail:ApprovedBySecondPrincipal": "false"}}});
    let policy = |statements: Value| json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    let put = |statements: Value| json!({"KeyId": key, "Policy": policy(statements)});
    let name = "TrentService.PutKeyPolicy";
    office.alice(name, &put(json!([owner, asks]))).await.expect("whoever may with an approval is not locked out");

    // Whom policies refuse anyway opens nothing, and what they do not ask about does not wait.
    let body = json!({"KeyId": key, "PendingWindowInDays": 7});
    let (code, message) = office.call(&Who::Keys(user_credentials("powerless")), SCHEDULE, &body).await.unwrap_err();
    assert!(code == "AccessDeniedException" && !message.contains("A-"), "{message}");
    let listed = office.alice("KeytrailService.ListApprovalRequests", &json!({})).await.unwrap();
    assert_eq!(listed["ApprovalRequests"], json!([]));
    office.alice("TrentService.DisableKey", &json!({"KeyId": key})).await.unwrap();
    office.alice("TrentService.EnableKey", &json!({"KeyId": key})).await.unwrap();

    let id = office.held(SCHEDULE, &body).await;
    assert_eq!(office.last().additional_event_data.decided_by, Some(format!("DualControl/{id}")));
    assert_eq!(office.state(&key).await, "Enabled");
    let alice = office.with_code("alice", None).await;
    assert_eq!(self::code(office.approve(&alice, &id).await), "AccessDeniedException", "not by oneself");
    let bob = office.with_code("bobby", None).await;
    office.approve(&bob, &id).await.unwrap();
    office.alice(SCHEDULE, &body).await.unwrap();
    let data = office.last().additional_event_data;
    assert_eq!(data.decided_by.as_deref(), Some("IdentityPolicy/AdministratorAccess/0"));
    assert_eq!(data.more["approvedBy"][0]["principalArn"], format!("arn:aws:iam::{ACCOUNT}:user/bobby"));
    assert_eq!(
        self::code(office.alice(SCHEDULE, &body).await),
        "KMSInvalidStateException",
        "no request for what cannot be"
    );
    office.alice("TrentService.CancelKeyDeletion", &json!({"KeyId": key})).await.unwrap();
    assert_ne!(office.held(SCHEDULE, &body).await, id, "used up");

    // Every change of the policy waits, or the statement could be taken out; going back to an earlier one is such a change.
    let freed = office.held(name, &put(json!([owner]))).await;
    let created = office.fixture.events().into_iter().find(|(_, event)| event.event_name == "CreateKey").unwrap().1;
    let sha = hex::encode(crate::chain::leaf::sha256(&[policy(json!([owner, asks])).as_bytes()]));
    let restore = json!({"KeyId": key, "CurrentPolicySha256": sha, "WantedEventId": created.event_id});
    office.held("KeytrailService.RestoreKeyPolicy", &restore).await;
    let mut retire = json!({"KeyId": key, "WatchDays": 7});
    office.held("KeytrailService.RetireKey", &retire).await;
    let bob = office.with_code("bobby", None).await;
    office.approve(&bob, &freed).await.unwrap();
    office.alice(name, &put(json!([owner]))).await.unwrap();

    // Somebody who may only with an approval.
    let (_, message) = office.call(&Who::Keys(user_credentials("dave")), SCHEDULE, &body).await.unwrap_err();
    let id = message.rsplit(' ').next().unwrap().to_owned();
    let bob = office.with_code("bobby", None).await;
    office.approve(&bob, &id).await.unwrap();
    office.call(&Who::Keys(user_credentials("dave")), SCHEDULE, &body).await.unwrap();
    assert_eq!(office.state(&key).await, "PendingDeletion");
    retire["WatchDays"] = 8.into();
    assert_eq!(self::code(office.alice("KeytrailService.RetireKey", &retire).await), "KMSInvalidStateException");
    office.fixture.stop().await;
    crate::past::tests::reproduces(&office.fixture.events());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_of_one_role_are_one_principal_and_the_suspect_is_none() {
    let mut office = Office::new().await;
    let key = office.key().await;
    let responder = || Credentials::read(&office.fixture.dir().join("service-credentials"), "responder").unwrap();
    let body = json!({
        "Operation": "disable_key", "Target": key, "Parameters": {"incident": "I-1"}, "Quorum": 2, "TtlSeconds": 1_800,
        "Subject": approval::subject(&["plan"]), "TargetState": approval::named_state("as it is"),
        "Suspects": [user_credentials("carol").access_key_id, format!("arn:aws:sts::{ACCOUNT}:assumed-role/deploy/x")],
    });
    let open = "KeytrailService.OpenApprovalRequest";
    assert_eq!(code(office.alice(open, &body).await), "AccessDeniedException", "the responder's alone");
    let id = office.call(&Who::Keys(responder()), open, &body).await.unwrap()["RequestId"].as_str().unwrap().to_owned();
    let request = office.request(&id).await;
    let suspects = [
        user_credentials("carol").access_key_id,
        format!("arn:aws:iam::{ACCOUNT}:role/deploy"),
        format!("arn:aws:iam::{ACCOUNT}:user/carol"),
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/deploy/x"),
    ];
    assert_eq!(request["Suspects"], json!(suspects));
    // Its target is another than the responder saw: nobody approves a plan for it.
    let bob = office.with_code("bobby", Some("ops")).await;
    assert_eq!(code(office.approve(&bob, &id).await), "AccessDeniedException");

    let policy = office.alice("TrentService.GetKeyPolicy", &json!({"KeyId": key})).await.unwrap()["Policy"].clone();
    let policy = hex::encode(crate::chain::leaf::sha256(&[policy.as_str().unwrap().as_bytes()]));
    let state = approval::key_state(&key, "Enabled", &policy);
    let mut right = body.clone();
    right["TargetState"] = state.clone().into();
    let id =
        office.call(&Who::Keys(responder()), open, &right).await.unwrap()["RequestId"].as_str().unwrap().to_owned();
    let carol = office.with_code("carol", None).await;
    assert_eq!(code(office.approve(&carol, &id).await), "AccessDeniedException", "it is about her access key");
    let stop = json!({"RequestId": id});
    assert_eq!(
        code(office.call(&Who::Session(&carol), "KeytrailService.Reject", &stop).await),
        "AccessDeniedException"
    );
    let carol = office.with_code("carol", Some("ops")).await;
    assert_eq!(code(office.approve(&carol, &id).await), "AccessDeniedException", "also as a role");
    let bob = office.with_code("bobby", Some("ops")).await;
    office.approve(&bob, &id).await.unwrap();
    let alice = office.with_code("alice", Some("ops")).await;
    assert_eq!(code(office.approve(&alice, &id).await), "AccessDeniedException", "another session of the role");
    let bob = office.with_code("bobby", None).await;
    assert_eq!(code(office.approve(&bob, &id).await), "AccessDeniedException", "whoever opened it");
    let consume = json!({"RequestId": id, "TargetState": state});
    let used = "KeytrailService.ConsumeApprovalRequest";
    assert_eq!(code(office.call(&Who::Keys(responder()), used, &consume).await), "KMSInvalidStateException");
    let alice = office.with_code("alice", None).await;
    assert_eq!(office.approve(&alice, &id).await.unwrap()["State"], "granted");
    assert_eq!(code(office.alice(used, &consume).await), "AccessDeniedException");
    let answer = office.call(&Who::Keys(responder()), used, &consume).await.unwrap();
    assert_eq!(answer["State"], "used");
    assert_eq!(code(office.call(&Who::Keys(responder()), used, &consume).await), "KMSInvalidStateException");
    office.fixture.stop().await;
}

#[tokio::test]
async fn about_a_key_at_aws_the_nodes_own_people_decide() {
    let mut office = Office::new().await;
    let responder = || Credentials::read(&office.fixture.dir().join("service-credentials"), "responder").unwrap();
    let there = "arn:aws:kms:eu-west-1:999988887777:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let body = |away: bool| {
        json!({
            "Operation": "disable_key", "Target": there, "Parameters": {"incident": "I-1"}, "Quorum": 1,
            "TtlSeconds": 1_800, "Subject": approval::subject(&["plan"]), "TargetState": approval::named_state(there),
            "Away": away,
        })
    };
    let open = "KeytrailService.OpenApprovalRequest";
    let mut ids = Vec::new();
    for away in [false, true] {
        let opened = office.call(&Who::Keys(responder()), open, &body(away)).await.unwrap();
        ids.push(opened["RequestId"].as_str().unwrap().to_owned());
    }
    let bob = office.with_code("bobby", None).await;
    let describe = |id: &String| json!({"RequestId": id});
    let shown = office.call(&Who::Session(&bob), "KeytrailService.DescribeApprovalRequest", &describe(&ids[0])).await;
    assert_eq!(code(shown), "NotFoundException", "of an account that nobody here is of");
    let shown = office.call(&Who::Session(&bob), "KeytrailService.DescribeApprovalRequest", &describe(&ids[1])).await;
    assert_eq!(shown.unwrap()["Target"], there);
    assert_eq!(office.approve(&bob, &ids[1]).await.unwrap()["State"], "granted");
    let consume = json!({"RequestId": ids[1], "TargetState": approval::named_state(there)});
    let used = office.call(&Who::Keys(responder()), "KeytrailService.ConsumeApprovalRequest", &consume).await.unwrap();
    assert_eq!(used["State"], "used");
    office.fixture.stop().await;
}

/// A request as the log tells of it.
struct Told {
    target_state: String,
    granted: bool,
    over: bool,
}

/// The invariant of locks, for approvals: replayed by seq, what the log says of key and requests explains each decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replaying_the_log_gives_each_decision_about_an_approval() {
    let mut office = Office::new().await;
    let key = office.key().await;
    let named = json!({"KeyId": key});
    let policy = office.alice("TrentService.GetKeyPolicy", &named).await.unwrap()["Policy"].clone();
    let policy = hex::encode(crate::chain::leaf::sha256(&[policy.as_str().unwrap().as_bytes()]));
    let bobby = office.with_code("bobby", None).await;
    let break_glass =
        || Who::Keys(Credentials::read(&office.fixture.dir().join("break-glass"), "break-glass").unwrap());
    // Refusals are the point.
    let toggle = async {
        for round in 0..30 {
            let target = if round % 2 == 0 { "TrentService.DisableKey" } else { "TrentService.EnableKey" };
            let _ = office.call(&break_glass(), target, &named).await;
        }
    };
    let ask = async {
        for _ in 0..60 {
            if office.alice(SCHEDULE, &named).await.is_ok() {
                let _ = office.call(&break_glass(), "TrentService.CancelKeyDeletion", &named).await;
            }
        }
    };
    let agree = async {
        for _ in 0..60 {
            let listed = office.alice("KeytrailService.ListApprovalRequests", &json!({})).await.unwrap();
            for request in listed["ApprovalRequests"].as_array().unwrap() {
                let (id, subject, state) = (&request["RequestId"], &request["Subject"], &request["TargetState"]);
                let yes = json!({"RequestId": id, "Subject": subject, "TargetState": state});
                let _ = office.call(&Who::Session(&bobby), "KeytrailService.Approve", &yes).await;
            }
        }
    };
    tokio::join!(toggle, ask, agree);
    office.fixture.stop().await;

    let (mut state, mut requests) = ("Enabled".to_owned(), HashMap::<String, Told>::new());
    let mut decisions: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (leaf, event) in office.fixture.events() {
        let (additional, seq) = (&event.additional_event_data, leaf.seq);
        let now = approval::key_state(&key, &state, &policy);
        let text = |name: &str| additional.more.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (id, code) = (text("approvalRequestId"), event.error_code.clone().unwrap_or_default());
        match (event.event_name.as_str(), code.as_str()) {
            ("ScheduleKeyDeletion", "AccessDenied") => {
                if let Some(stale) = requests.get_mut(&text("staleApprovalRequestId")) {
                    assert!(!stale.over && stale.target_state != now, "seq {seq}");
                    stale.over = true;
                }
                if let Some(opened) = additional.more.get("approvalRequest") {
                    let open = requests.values().any(|told| !told.over);
                    assert!(!open && opened["targetState"] == now, "seq {seq}");
                    requests.insert(id, Told { target_state: now, granted: false, over: false });
                } else {
                    let told = &requests[&id];
                    assert!(!told.over && !told.granted && told.target_state == now, "seq {seq}");
                }
            }
            ("ScheduleKeyDeletion", "") => {
                let told = requests.get_mut(&id).unwrap();
                assert!(told.granted && !told.over && told.target_state == now, "seq {seq}");
                told.over = true;
            }
            ("ScheduleKeyDeletion", _) => assert_eq!(state, "PendingDeletion", "seq {seq}"),
            ("Approve", "") => {
                let told = requests.get_mut(&id).unwrap();
                assert!(!told.granted && !told.over && told.target_state == now, "seq {seq}");
                told.granted = true;
            }
            ("Approve", "AccessDenied") => assert_ne!(requests[&id].target_state, now, "seq {seq}"),
            ("Approve", _) => assert!(requests[&id].granted || requests[&id].over, "seq {seq}"),
            _ => {}
        }
        if let Some(image) = additional.after.as_ref().filter(|image| image["keyArn"] == key) {
            state = image["keyState"].as_str().unwrap().to_owned();
        }
        *decisions.entry((event.event_name.clone(), code)).or_default() += 1;
    }
    let about = |name: &str| decisions.keys().filter(|(event, _)| event == name).count();
    assert!(about("ScheduleKeyDeletion") + about("Approve") >= 3, "the race met too few cases: {decisions:?}");
}
