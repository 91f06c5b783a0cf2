//! The AWS SDK for Rust as an application uses it; workplace.py says what it is told, test_sdks.py what it must find.

use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_kms::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kms::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, MacAlgorithmSpec, SigningAlgorithmSpec};
use aws_smithy_async::time::TimeSource;
use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let base = aws_config::load_defaults(BehaviorVersion::latest()).await;
    match std::env::args().nth(1).as_deref() {
        Some("journey") => journey(&base).await,
        Some("workload") => workload(&base).await,
        Some("flood") => flood(&base).await,
        Some("skew") => skew(&base).await,
        verb => Err(format!("no such verb: {verb:?}").into()),
    }
}

async fn journey(base: &SdkConfig) -> Outcome {
    say("caller", caller(base).await?);
    let session = assume(base, "WORKER").await;
    say("worker", caller(&session).await?);
    let worker = aws_sdk_kms::Client::new(&session);
    let visitor = aws_sdk_kms::Client::new(&assume(base, "VISITOR").await);
    sealing(&worker, &visitor).await?;
    signing(&worker).await?;
    looking(&worker).await
}

async fn caller(config: &SdkConfig) -> Result<String, Box<dyn std::error::Error>> {
    let answer = aws_sdk_sts::Client::new(config).get_caller_identity().send().await?;
    Ok(answer.arn.unwrap_or_default())
}

/// A configuration that assumes the role by itself.
async fn assume(base: &SdkConfig, role: &str) -> SdkConfig {
    let provider = AssumeRoleProvider::builder(told(role)).session_name("rust").configure(base).build().await;
    let provider = aws_sdk_kms::config::SharedCredentialsProvider::new(provider);
    base.to_builder().credentials_provider(provider).build()
}

async fn sealing(worker: &aws_sdk_kms::Client, visitor: &aws_sdk_kms::Client) -> Outcome {
    let context =
        || Some(HashMap::from([("tenant".to_owned(), "7".to_owned()), ("purpose".to_owned(), "größer".to_owned())]));
    let text = || Blob::new("over the wire");
    let sealed =
        worker.encrypt().key_id(told("KEY")).plaintext(text()).set_encryption_context(context()).send().await?;
    say("request", sealed.request_id().unwrap_or_default());
    let blob = sealed.ciphertext_blob.unwrap_or_else(|| Blob::new([]));
    let opened = worker.decrypt().ciphertext_blob(blob.clone()).set_encryption_context(context()).send().await?;
    say("opened", words(opened.plaintext));

    let data_key = worker.generate_data_key().key_id(told("KEY")).key_spec(DataKeySpec::Aes256).send().await?;
    let again = worker.decrypt().set_ciphertext_blob(data_key.ciphertext_blob).send().await?;
    let same = data_key.plaintext == again.plaintext && data_key.plaintext.is_some_and(|key| key.as_ref().len() == 32);
    say("data_key", same);

    let moved = worker.re_encrypt().ciphertext_blob(blob.clone()).set_source_encryption_context(context());
    let moved = moved.destination_key_id(told("OTHER_KEY")).send().await?;
    let reopened = worker.decrypt().set_ciphertext_blob(moved.ciphertext_blob).key_id(told("OTHER_KEY")).send().await?;
    say("reopened", words(reopened.plaintext));

    fails(
        "wrong_context",
        worker.decrypt().ciphertext_blob(blob.clone()).encryption_context("tenant", "8").send().await,
    );
    let call = worker.decrypt().ciphertext_blob(blob.clone()).set_encryption_context(context());
    fails("wrong_key", call.key_id(told("OTHER_KEY")).send().await);
    fails("refused", visitor.decrypt().ciphertext_blob(blob).set_encryption_context(context()).send().await);
    fails("disabled", worker.encrypt().key_id(told("DISABLED_KEY")).plaintext(text()).send().await);
    fails("usage", worker.encrypt().key_id(told("SIGNING_KEY")).plaintext(text()).send().await);
    fails("too_long", worker.encrypt().key_id(told("KEY")).plaintext(Blob::new([0; 4097])).send().await);
    Ok(())
}

async fn signing(worker: &aws_sdk_kms::Client) -> Outcome {
    let algorithm = SigningAlgorithmSpec::EcdsaSha256;
    let call = worker.sign().key_id(told("SIGNING_KEY")).message(Blob::new("signed"));
    let signature = call.signing_algorithm(algorithm.clone()).send().await?.signature;
    let verify = |message: &str| {
        let call = worker.verify().key_id(told("SIGNING_KEY")).message(Blob::new(message));
        call.set_signature(signature.clone()).signing_algorithm(algorithm.clone()).send()
    };
    say("signature", verify("signed").await?.signature_valid);
    fails("forged", verify("forged").await);

    let hmac = MacAlgorithmSpec::HmacSha256;
    let call = worker.generate_mac().key_id(told("MAC_KEY")).message(Blob::new("tagged"));
    let mac = call.mac_algorithm(hmac.clone()).send().await?.mac;
    let verify_mac = |message: &str| {
        let call = worker.verify_mac().key_id(told("MAC_KEY")).message(Blob::new(message));
        call.set_mac(mac.clone()).mac_algorithm(hmac.clone()).send()
    };
    say("mac", verify_mac("tagged").await?.mac_valid);
    fails("forged_mac", verify_mac("forged").await);
    Ok(())
}

async fn looking(worker: &aws_sdk_kms::Client) -> Outcome {
    let described = worker.describe_key().key_id(told("KEY")).send().await?;
    let created = described.key_metadata.and_then(|key| key.creation_date).ok_or("no date")?;
    say("created", created.secs());
    let mut pages = worker.list_keys().limit(2).into_paginator().items().send();
    let mut listed = 0;
    while let Some(key) = pages.next().await {
        key?;
        listed += 1;
    }
    say("listed", listed);
    fails("missing", worker.describe_key().key_id("alias/nothing-here").send().await);
    Ok(())
}

/// With whatever credentials the SDK finds by itself.
async fn workload(base: &SdkConfig) -> Outcome {
    say("caller", caller(base).await?);
    let call = aws_sdk_kms::Client::new(base).generate_data_key().key_id(told("KEY")).key_spec(DataKeySpec::Aes256);
    say("length", call.send().await?.plaintext.map_or(0, |key| key.as_ref().len()));
    Ok(())
}

/// More calls than the quota lets through at once.
async fn flood(base: &SdkConfig) -> Outcome {
    let (worker, attempts) = counted(&assume(base, "WORKER").await);
    for _ in 0..told("CALLS").parse()? {
        worker.get_key_rotation_status().key_id(told("KEY")).send().await?;
    }
    say("attempts", attempts.load(Ordering::Relaxed));
    Ok(())
}

/// A machine whose clock is ten minutes off: the SDK learns the time from the refusal's Date.
async fn skew(base: &SdkConfig) -> Outcome {
    let session = assume(base, "WORKER").await;
    for minutes in [-10, 10] {
        let (worker, attempts) = counted(&session.to_builder().time_source(Off(minutes)).build());
        for turn in ["first", "second"] {
            worker.describe_key().key_id(told("KEY")).send().await?;
            say(&format!("{turn}.{minutes}"), attempts.swap(0, Ordering::Relaxed));
        }
    }
    Ok(())
}

/// A client and how often it sent something.
fn counted(config: &SdkConfig) -> (aws_sdk_kms::Client, Arc<AtomicU32>) {
    let attempts = Arc::new(AtomicU32::new(0));
    let config = aws_sdk_kms::config::Builder::from(config).interceptor(Counter(Arc::clone(&attempts))).build();
    (aws_sdk_kms::Client::from_conf(config), attempts)
}

#[derive(Debug)]
struct Counter(Arc<AtomicU32>);

impl Intercept for Counter {
    fn name(&self) -> &'static str {
        "Counter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A clock that is minutes off.
#[derive(Debug)]
struct Off(i64);

impl TimeSource for Off {
    fn now(&self) -> SystemTime {
        let by = Duration::from_secs(60 * self.0.unsigned_abs());
        if self.0 < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
}

fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn words(blob: Option<Blob>) -> String {
    String::from_utf8_lossy(blob.unwrap_or_else(|| Blob::new([])).as_ref()).into_owned()
}

fn say(name: &str, value: impl Display) {
    println!("{name}={value}");
}

/// Says the code on the wire and the variant that the SDK made of it.
fn fails<T, E: Debug + ProvideErrorMetadata>(name: &str, outcome: Result<T, SdkError<E>>) {
    let said = match outcome {
        Ok(_) => "none".to_owned(),
        Err(SdkError::ServiceError(error)) => {
            let variant = format!("{:?}", error.err());
            let variant = variant.split(['(', ' ']).next().unwrap_or_default();
            format!("{} {variant}", error.err().code().unwrap_or_default())
        }
        Err(other) => format!("{other:?}"),
    };
    say(&format!("error.{name}"), said);
}
