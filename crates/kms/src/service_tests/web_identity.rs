//! AssumeRoleWithWebIdentity: tokens of an issuer on this machine and of one whose keys are in a file, whatever can be
//! wrong with them, and what the log says.

use super::iam::{done, refusal};
use super::rotation::fixture_and_clock;
use super::sts::{Temporary, element, form, kms, role, sts, temporary};
use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ELSEWHERE: &str = "https://issuer.example.org/tenant";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A signer of tokens.
enum Signer {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    /// Its public half, as issuers publish it.
    fn published(&self, kid: &str) -> Value {
        match self {
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kid": kid, "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            Self::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kid": kid, "kty": "RSA", "use": "sig", "alg": "RS256",
                    "n": b64(public.modulus().big_endian_without_leading_zero()),
                    "e": b64(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let alg = if matches!(self, Self::Ec(_)) { "ES256" } else { "RS256" };
        self.token_with(&json!({"alg": alg, "kid": kid, "typ": "JWT"}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", b64(signature))
    }
}

/// An issuer on this machine that counts how often it is asked for its keys.
struct Issuer {
    url: String,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuer {
    async fn start(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        let (keys, asked) = (json!({"keys": keys}).to_string(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let body = match String::from_utf8_lossy(&request[..read]).split(' ').nth(1) {
                    Some("/.well-known/openid-configuration") => &discovery,
                    Some("/keys") => {
                        counted.fetch_add(1, Ordering::SeqCst);
                        &keys
                    }
                    _ => "",
                };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Self { url, asked, task }
    }

    fn name(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }
}

fn provider_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:oidc-provider/{name}")
}

/// A role that trusts a principal, on conditions, for tokens.
fn trusting(name: &str, principal: &Value, condition: &Value) -> String {
    let trust = json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "Tokens", "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": condition,
    }]});
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": ["kms:ListKeys", "kms:GenerateRandom"], "Resource": "*",
    }]});
    format!(
        "[[role]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\npolicies = ['''{policy}''']\ntrust = '''{trust}'''\n"
    )
}

fn arn_of(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// A service whose roles trust an issuer on this machine, on a clock that the test moves.
async fn fixture(signer: &Signer) -> (Fixture, Arc<FakeClock>, Issuer) {
    let issuer = Issuer::start(json!([{"kty": "strange"}, signer.published("one")])).await;
    let (mut fixture, clock) = fixture_and_clock().await;
    fixture.stop().await;
    let federated = json!({"Federated": provider_arn(issuer.name())});
    let for_orders = json!({"StringEquals": {
        format!("{}:aud", issuer.name()): "sts.amazonaws.com",
        format!("{}:sub", issuer.name()): "system:serviceaccount:orders:app",
    }});
    fixture.append_identities(&trusting("orders", &federated, &for_orders));
    let with_otp = json!({"ForAnyValue:StringEquals": {format!("{}:amr", issuer.name()): "otp"}});
    fixture.append_identities(&trusting("careful", &federated, &with_otp));
    fixture.append_identities(&trusting("anyone", &json!("*"), &for_orders));
    fixture.append_identities(&role("people", ACCOUNT, "", &[], ""));
    fixture.start().await.unwrap();
    let provider = [("Url", issuer.url.as_str()), ("ClientIDList.member.1", "sts.amazonaws.com")];
    done(&fixture, "CreateOpenIDConnectProvider", &provider).await;
    (fixture, clock, issuer)
}

fn claims(fixture: &Fixture, issuer: &str) -> Value {
    let now = fixture.clock.now_us() / 1_000_000;
    json!({
        "iss": issuer, "sub": "system:serviceaccount:orders:app", "aud": "sts.amazonaws.com", "iat": now, "exp": now + 600,
    })
}

fn with(mut claims: Value, member: &str, value: Value) -> Value {
    claims[member] = value;
    claims
}

async fn attempt(fixture: &Fixture, role: &str, token: &str, more: &[(&str, &str)]) -> (u16, String) {
    let arn = arn_of(role);
    let pairs = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", arn.as_str()),
        ("RoleSessionName", "app1"),
        ("WebIdentityToken", token),
    ];
    let headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    raw(fixture, &headers, form(&[&pairs[..], more].concat()).as_bytes(), None).await
}

/// Status and code of a refusal.
async fn refused_as(fixture: &Fixture, role: &str, token: &str, more: &[(&str, &str)]) -> (u16, String) {
    let (status, xml) = attempt(fixture, role, token, more).await;
    (status, element(&xml, "Code").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_a_session_that_does_what_the_role_may() {
    let signer = Signer::ec();
    let (mut fixture, clock, issuer) = fixture(&signer).await;
    let token = signer.token("one", &claims(&fixture, &issuer.url));
    let (status, xml) = attempt(&fixture, "orders", &token, &[("DurationSeconds", "900")]).await;
    assert_eq!(status, 200, "{xml}");
    let (arn, provider) = (format!("arn:aws:sts::{ACCOUNT}:assumed-role/orders/app1"), provider_arn(issuer.name()));
    assert_eq!(element(&xml, "Arn"), arn);
    assert_eq!(element(&xml, "SubjectFromWebIdentityToken"), "system:serviceaccount:orders:app");
    assert_eq!((element(&xml, "Provider"), element(&xml, "Audience")), (provider.as_str(), "sts.amazonaws.com"));
    let event = fixture.events().pop().unwrap().1;
    let identity = event.user_identity;
    assert_eq!(
        (event.event_name.as_str(), identity.kind.as_deref()),
        ("AssumeRoleWithWebIdentity", Some("WebIdentityUser"))
    );
    assert_eq!(identity.user_name.as_deref(), Some("system:serviceaccount:orders:app"));
    assert_eq!(identity.identity_provider.as_deref(), Some(provider.as_str()));
    let id = format!("{provider}:sts.amazonaws.com:system:serviceaccount:orders:app");
    assert_eq!((identity.principal_id, identity.arn), (Some(id), None));
    assert_eq!(event.additional_event_data.decided_by.as_deref(), Some("TrustPolicy/Tokens"));
    let session = temporary(&xml);
    let elements = event.response_elements.unwrap();
    assert_eq!(elements["credentials"]["accessKeyId"], session.credentials.access_key_id);
    assert_eq!((&elements["provider"], &elements["audience"]), (&json!(provider), &json!("sts.amazonaws.com")));
    assert_eq!(event.request_parameters.unwrap()["roleArn"], arn_of("orders"));

    assert_eq!(kms(&fixture, &session, "TrentService.ListKeys", json!({})).await, None);
    let context = fixture.events().pop().unwrap().1.user_identity.session_context.unwrap();
    assert_eq!(context.session_issuer.unwrap().arn, arn_of("orders"));
    assert_eq!(context.web_id_federation_data.unwrap().federated_provider, provider);
    let denied = kms(&fixture, &session, "TrentService.CreateKey", json!({})).await;
    assert_eq!(denied.as_deref(), Some("AccessDeniedException"));
    let (_, xml) = sts(&fixture, &session.credentials, Some(&session.token), &[("Action", "GetCallerIdentity")]).await;
    assert_eq!(element(&xml, "Arn"), arn);

    // A session policy narrows it.
    let nothing = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*"}]}"#;
    let (_, xml) = attempt(&fixture, "orders", &token, &[("Policy", nothing)]).await;
    let narrow = temporary(&xml);
    let random = json!({"NumberOfBytes": 1});
    assert_eq!(kms(&fixture, &session, "TrentService.GenerateRandom", random.clone()).await, None);
    let denied = kms(&fixture, &narrow, "TrentService.GenerateRandom", random).await;
    assert_eq!(denied.as_deref(), Some("AccessDeniedException"));

    // A quarantine of the provider reaches its sessions, and there are no new ones.
    let put = json!({"PrincipalArn": provider, "TtlSeconds": 60});
    ok(&fixture.responder(), "KeytrailService.PutQuarantine", put).await;
    let denied = kms(&fixture, &session, "TrentService.GenerateRandom", json!({"NumberOfBytes": 1})).await;
    assert_eq!(denied.as_deref(), Some("AccessDeniedException"));
    assert_eq!(refused_as(&fixture, "orders", &token, &[]).await, (403, "AccessDenied".to_owned()));
    clock.advance(Duration::from_secs(900));
    let over = kms(&fixture, &session, "TrentService.ListKeys", json!({})).await;
    assert_eq!(over.as_deref(), Some("ExpiredTokenException"));
    fixture.stop().await;
    let signature = token.rsplit_once('.').unwrap().1;
    for (_, payload) in fixture.records() {
        let text = String::from_utf8(payload).unwrap();
        assert!(!text.contains(signature) && !text.contains(&session.token), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_token_is_one_event_without_it() {
    let (signer, other) = (Signer::ec(), Signer::ec());
    let (mut fixture, clock, issuer) = fixture(&signer).await;
    let now = clock.now_us() / 1_000_000;
    let good = claims(&fixture, &issuer.url);
    let token = |claims: &Value| signer.token("one", claims);
    let mut damaged = token(&good);
    damaged.pop();
    let swapped = {
        let (one, two) = (token(&good), token(&with(good.clone(), "sub", json!("somebody"))));
        let (parts, other): (Vec<&str>, Vec<&str>) = (one.split('.').collect(), two.split('.').collect());
        format!("{}.{}.{}", parts[0], other[1], parts[2])
    };
    let invalid = (400, "InvalidIdentityToken");
    let denied = (403, "AccessDenied");
    let none: &[(&str, &str)] = &[];
    for (what, role, token, more, want) in [
        ("another's signature", "orders", other.token("one", &good), none, invalid),
        ("another's claims", "orders", swapped, none, invalid),
        ("damaged", "orders", damaged, none, invalid),
        ("an unknown key", "orders", signer.token("two", &good), none, invalid),
        ("no signature", "orders", signer.token_with(&json!({"alg": "none", "kid": "one"}), &good), none, invalid),
        (
            "another algorithm",
            "orders",
            signer.token_with(&json!({"alg": "RS256", "kid": "one"}), &good),
            none,
            invalid,
        ),
        ("no token", "orders", "x".to_owned(), none, invalid),
        ("too long", "orders", "x".repeat(20_001), none, invalid),
        ("another audience", "orders", token(&with(good.clone(), "aud", json!("elsewhere"))), none, invalid),
        (
            "two audiences",
            "orders",
            token(&with(good.clone(), "aud", json!(["sts.amazonaws.com", "x"]))),
            none,
            invalid,
        ),
        ("another party", "orders", token(&with(good.clone(), "azp", json!("elsewhere"))), none, invalid),
        ("an unknown issuer", "orders", token(&with(good.clone(), "iss", json!(ELSEWHERE))), none, invalid),
        (
            "an issuer of another scheme",
            "orders",
            token(&with(good.clone(), "iss", json!(issuer.url.replace("http", "https")))),
            none,
            invalid,
        ),
        ("over", "orders", token(&with(good.clone(), "exp", json!(now))), none, (400, "ExpiredTokenException")),
        ("not yet", "orders", token(&with(good.clone(), "nbf", json!(now + 90))), none, (403, "IDPRejectedClaim")),
        (
            "from the future",
            "orders",
            token(&with(good.clone(), "iat", json!(now + 90))),
            none,
            (403, "IDPRejectedClaim"),
        ),
        ("no subject", "orders", token(&with(good.clone(), "sub", json!(""))), none, (403, "IDPRejectedClaim")),
        ("another subject", "orders", token(&with(good.clone(), "sub", json!("somebody"))), none, denied),
        ("no second factor", "careful", token(&with(good.clone(), "amr", json!(["pwd"]))), none, denied),
        ("a role for everyone", "anyone", token(&good), none, denied),
        ("a role for people", "people", token(&good), none, denied),
        ("no such role", "nobody", token(&good), none, denied),
        (
            "tags",
            "orders",
            token(&good),
            &[("Tags.member.1.Key", "a"), ("Tags.member.1.Value", "b")],
            (400, "ValidationError"),
        ),
        ("too long a session", "orders", token(&good), &[("DurationSeconds", "43201")], (400, "ValidationError")),
        (
            "an access token's provider",
            "orders",
            token(&good),
            &[("ProviderId", "www.amazon.com")],
            (400, "ValidationError"),
        ),
    ] {
        let before = fixture.events().len();
        assert_eq!(refused_as(&fixture, role, &token, more).await, (want.0, want.1.to_owned()), "{what}");
        let events = fixture.events();
        assert_eq!(events.len(), before + 1, "{what}");
        let event = &events.last().unwrap().1;
        assert_eq!(event.event_name, "AssumeRoleWithWebIdentity", "{what}");
        assert!(event.error_code.is_some(), "{what}");
        let known = want == denied;
        let kind = if known { "WebIdentityUser" } else { "Unknown" };
        assert_eq!(event.user_identity.kind.as_deref(), Some(kind), "{what}");
        assert_eq!(event.request_parameters.as_ref().unwrap()["roleArn"], arn_of(role), "{what}");
        // Strangers from one address have twenty events at once: this is about tokens.
        clock.advance(Duration::from_millis(100));
    }
    let fine = token(&with(with(good.clone(), "amr", json!(["pwd", "otp"])), "iat", json!(now + 59)));
    assert_eq!(attempt(&fixture, "careful", &fine, none).await.0, 200);
    // Unknown keys were asked for once a minute, and all the time it was the same minute.
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
    clock.advance(Duration::from_secs(60));
    assert_eq!(refused_as(&fixture, "orders", &signer.token("two", &good), none).await, (400, invalid.1.to_owned()));
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
    fixture.stop().await;
    let signature = fine.rsplit_once('.').unwrap().1;
    for (_, payload) in fixture.records() {
        assert!(!String::from_utf8(payload).unwrap().contains(signature));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_a_file_or_from_this_machine_only() {
    let signer = Signer::rsa();
    let (mut fixture, clock) = fixture_and_clock().await;
    fixture.stop().await;
    let name = ELSEWHERE.strip_prefix("https://").unwrap();
    let condition = json!({"StringEquals": {format!("{name}:sub"): "system:serviceaccount:orders:app"}});
    fixture.append_identities(&trusting("orders", &json!({"Federated": provider_arn(name)}), &condition));
    fixture.start().await.unwrap();
    let provider = [("Url", ELSEWHERE), ("ClientIDList.member.1", "sts.amazonaws.com")];
    done(&fixture, "CreateOpenIDConnectProvider", &provider).await;
    let token = signer.token("one", &claims(&fixture, ELSEWHERE));
    let (status, xml) = attempt(&fixture, "orders", &token, &[]).await;
    assert_eq!((status, element(&xml, "Code")), (400, "IDPCommunicationError"));
    assert!(element(&xml, "Message").contains("no key file is configured"), "{xml}");

    fixture.stop().await;
    let file = fixture.dir().join("issuer.json");
    std::fs::write(&file, json!({"keys": [signer.published("one")]}).to_string()).unwrap();
    fixture.issuer_keys = [(ELSEWHERE.to_owned(), file.clone())].into();
    fixture.start().await.unwrap();
    assert_eq!(attempt(&fixture, "orders", &token, &[]).await.0, 200);
    // Another key of the same name in the file is believed when the old one has aged.
    let next = Signer::rsa();
    std::fs::write(&file, json!({"keys": [next.published("one")]}).to_string()).unwrap();
    clock.advance(Duration::from_secs(599));
    assert_eq!(attempt(&fixture, "orders", &token, &[]).await.0, 200);
    clock.advance(Duration::from_secs(1));
    let token = signer.token("one", &claims(&fixture, ELSEWHERE));
    assert_eq!(refused_as(&fixture, "orders", &token, &[]).await, (400, "InvalidIdentityToken".to_owned()));
    let token = next.token("one", &claims(&fixture, ELSEWHERE));
    assert_eq!(attempt(&fixture, "orders", &token, &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_tokens_is_bounded_and_good_ones_are_no_flood() {
    let signer = Signer::ec();
    let (mut fixture, _clock, issuer) = fixture(&signer).await;
    let token = signer.token("one", &claims(&fixture, &issuer.url));
    for _ in 0..30 {
        assert_eq!(attempt(&fixture, "orders", &token, &[]).await.0, 200);
    }
    let before = fixture.events().len();
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..50 {
        *codes.entry(refused_as(&fixture, "orders", "x", &[]).await.1).or_default() += 1;
    }
    assert_eq!(codes, [("InvalidIdentityToken".to_owned(), 20), ("Throttling".to_owned(), 30)].into());
    assert_eq!(fixture.events().len() - before, 20);
    let large = "x".repeat(40_000);
    let (status, _) = attempt(&fixture, "orders", &large, &[]).await;
    assert_eq!(status, 400, "refused unread");
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_administered_and_a_token_is_worth_what_they_say() {
    let signer = Signer::ec();
    let (mut fixture, _clock, issuer) = fixture(&signer).await;
    let arn = provider_arn(issuer.name());
    let named = [("OpenIDConnectProviderArn", arn.as_str())];
    let event = fixture.events().pop().unwrap().1;
    assert_eq!(
        (event.event_name.as_str(), event.resources[0].kind.as_str()),
        ("CreateOpenIDConnectProvider", "AWS::IAM::OIDCProvider")
    );
    assert_eq!(event.additional_event_data.after.unwrap()["clientIds"], json!(["sts.amazonaws.com"]));
    assert_eq!(event.request_parameters.unwrap()["clientIDList"], json!(["sts.amazonaws.com"]));
    assert_eq!(event.response_elements.unwrap()["openIDConnectProviderArn"], arn);
    let again = refusal(&fixture, "CreateOpenIDConnectProvider", &[("Url", &issuer.url)]).await;
    assert_eq!(again, (409, "EntityAlreadyExists".to_owned()));
    for url in ["http://example.org", "https://", "https://example.org/?a", "ftp://127.0.0.1", "https://example.org/"] {
        let refused = refusal(&fixture, "CreateOpenIDConnectProvider", &[("Url", url)]).await;
        assert_eq!(refused, (400, "InvalidInput".to_owned()), "{url}");
    }
    assert_eq!(element(&done(&fixture, "ListOpenIDConnectProviders", &[]).await, "Arn"), arn);

    let token = signer.token("one", &claims(&fixture, &issuer.url));
    assert_eq!(attempt(&fixture, "orders", &token, &[]).await.0, 200);
    let client = [named[0], ("ClientID", "sts.amazonaws.com")];
    done(&fixture, "RemoveClientIDFromOpenIDConnectProvider", &client).await;
    assert_eq!(refused_as(&fixture, "orders", &token, &[]).await, (400, "InvalidIdentityToken".to_owned()));
    done(&fixture, "AddClientIDToOpenIDConnectProvider", &client).await;
    let thumbprint = "0123456789abcdef0123456789abcdef01234567";
    done(&fixture, "UpdateOpenIDConnectProviderThumbprint", &[named[0], ("ThumbprintList.member.1", thumbprint)]).await;
    done(
        &fixture,
        "TagOpenIDConnectProvider",
        &[named[0], ("Tags.member.1.Key", "team"), ("Tags.member.1.Value", "red")],
    )
    .await;
    fixture.stop().await;
    fixture.start().await.unwrap();
    let xml = done(&fixture, "GetOpenIDConnectProvider", &named).await;
    for text in [issuer.name(), "sts.amazonaws.com", thumbprint, "<Key>team</Key>"] {
        assert!(xml.contains(text), "{text}: {xml}");
    }
    assert!(done(&fixture, "ListOpenIDConnectProviderTags", &named).await.contains("<Value>red</Value>"));
    done(&fixture, "UntagOpenIDConnectProvider", &[named[0], ("TagKeys.member.1", "team")]).await;
    let (status, xml) = attempt(&fixture, "orders", &token, &[]).await;
    assert_eq!(status, 200, "{xml}");
    let session: Temporary = temporary(&xml);

    done(&fixture, "DeleteOpenIDConnectProvider", &named).await;
    assert_eq!(fixture.events().pop().unwrap().1.additional_event_data.before.unwrap()["url"], issuer.url);
    assert_eq!(refused_as(&fixture, "orders", &token, &[]).await, (400, "InvalidIdentityToken".to_owned()));
    assert_eq!(kms(&fixture, &session, "TrentService.ListKeys", json!({})).await, None, "as at AWS, until it is over");
    assert_eq!(refusal(&fixture, "GetOpenIDConnectProvider", &named).await, (404, "NoSuchEntity".to_owned()));
}
