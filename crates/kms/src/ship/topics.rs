//! Makes the topics that are missing and compares the settings of those that are there.
//!
//! A topic that somebody else set up differently is never changed: compaction would lose records, a small message limit
//! would hold the log up, and a longer retention would break what the erasure horizon promises.

use crate::topics::{TOPICS, TopicSpec};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use std::time::Duration;

/// How long the broker may take for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The broker does not answer or refuses.
    #[error("cannot {step} topics")]
    Kafka {
        /// What was tried.
        step: &'static str,
        /// Kafka's answer.
        #[source]
        source: KafkaError,
    },
    /// A topic cannot be made.
    #[error("cannot create topic {topic}: {code}")]
    Create {
        /// Which one.
        topic: String,
        /// Kafka's answer.
        code: RDKafkaErrorCode,
    },
    /// A topic cannot be looked at.
    #[error("cannot describe a topic: {0}")]
    Describe(RDKafkaErrorCode),
    /// Topics exist with other settings; every difference is named.
    #[error("topics are set up differently: {}", .0.join(", "))]
    Settings(Vec<String>),
}

/// Creates what is missing with `replication` replicas, then checks the settings of all of them.
pub async fn ensure_topics(brokers: &str, replication: i32) -> Result<(), TopicError> {
    let kafka = |step| move |source| TopicError::Kafka { step, source };
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(kafka("prepare to create"))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
    let wanted: Vec<NewTopic<'_>> = TOPICS.iter().map(|topic| new_topic(topic, replication)).collect();
    for created in admin.create_topics(&wanted, &options).await.map_err(kafka("create"))? {
        match created {
            Ok(topic) => tracing::info!(topic, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Create { topic, code }),
        }
    }
    let resources = TOPICS.map(|topic| ResourceSpecifier::Topic(topic.name));
    let mut differences = Vec::new();
    // Answers come in the order of the questions.
    let described = admin.describe_configs(&resources, &options).await.map_err(kafka("describe"))?;
    for (topic, found) in TOPICS.iter().zip(described) {
        compare(topic, &found.map_err(TopicError::Describe)?, &mut differences);
    }
    if differences.is_empty() { Ok(()) } else { Err(TopicError::Settings(differences)) }
}

fn new_topic(topic: &'static TopicSpec, replication: i32) -> NewTopic<'static> {
    let mut bare = NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(replication));
    // With three replicas a record counts as delivered once two have it: one broker may then be lost with its disk.
    if replication > 2 {
        bare = bare.set("min.insync.replicas", "2");
    }
    topic.settings.iter().fold(bare, |topic, (name, value)| topic.set(name, value))
}

fn compare(topic: &TopicSpec, found: &ConfigResource, differences: &mut Vec<String>) {
    for (name, wanted) in topic.settings {
        let value = found.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or("nothing");
        if value != *wanted {
            differences.push(format!("{} has {name}={value} instead of {wanted}", topic.name));
        }
    }
}
