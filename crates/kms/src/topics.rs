//! Names and settings of the Kafka topics: the contract between the shipper, the trail and the responder.
//!
//! Kafka is untrusted transport: whoever can write to these topics can delay, repeat or drop records, which the lander
//! notices and repairs, and can forge nothing, because every record is verified against the chain. Layout of a message
//! in `keytrail.audit`: key = log id in hex, value = the payload as first written, headers `salt` and `leaf` = raw bytes.

/// One message for each log record.
pub const AUDIT: &str = "keytrail.audit";
/// Signed checkpoints: key = log id in hex, value = the note; one that a quorum has cosigned comes again with the cosignatures.
pub const CHECKPOINTS: &str = "keytrail.checkpoints";
/// Signed alerts: key = alert id, value = the alert's JSON, header `signature` = hex.
pub const ALERTS: &str = "keytrail.alerts";

/// Header of an audit message: the payload digest's salt, 16 bytes.
pub const HEADER_SALT: &str = "salt";
/// Header of an audit message: the encoded leaf, 110 bytes.
pub const HEADER_LEAF: &str = "leaf";
/// Header of an alert message: the trail's Ed25519 signature, in hex.
pub const HEADER_SIGNATURE: &str = "signature";

/// Largest message of the audit topic in bytes: four times the largest payload.
pub const AUDIT_MESSAGE_BYTES_MAX: usize = 1_048_576;
/// Largest message of the alerts topic in bytes: the largest alert, 1 MiB, and room for key and headers.
pub const ALERT_MESSAGE_BYTES_MAX: usize = 1_114_112;

/// A topic as it must be set up.
#[derive(Clone, Copy, Debug)]
pub struct TopicSpec {
    /// The topic's name.
    pub name: &'static str,
    /// Partitions made on creation. More or fewer later are fine: the lander keeps state per log, not per partition.
    pub partitions: i32,
    /// Topic settings, as Kafka names them.
    pub settings: &'static [(&'static str, &'static str)],
}

/// All topics. Retention of the audit topic is part of the erasure horizon: an erased payload is gone from Kafka after
/// seven days, so a longer retention is refused too.
pub const TOPICS: [TopicSpec; 3] = [
    TopicSpec {
        name: AUDIT,
        partitions: 4,
        settings: &[
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "1048576"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
        ],
    },
    TopicSpec {
        name: CHECKPOINTS,
        partitions: 1,
        settings: &[("cleanup.policy", "delete"), ("retention.ms", "604800000")],
    },
    TopicSpec {
        name: ALERTS,
        partitions: 1,
        settings: &[("cleanup.policy", "delete"), ("max.message.bytes", "1114112"), ("retention.ms", "604800000")],
    },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::journal::frame::PAYLOAD_BYTES_MAX;

    #[test]
    fn every_payload_fits_a_message_and_topics_take_what_producers_make() {
        const { assert!(AUDIT_MESSAGE_BYTES_MAX >= 4 * PAYLOAD_BYTES_MAX) };
        let limit_of = |name: &str| {
            let topic = TOPICS.iter().find(|topic| topic.name == name).unwrap();
            topic.settings.iter().find(|(key, _)| *key == "max.message.bytes").unwrap().1.to_owned()
        };
        assert_eq!(limit_of(AUDIT), AUDIT_MESSAGE_BYTES_MAX.to_string());
        assert_eq!(limit_of(ALERTS), ALERT_MESSAGE_BYTES_MAX.to_string());
    }
}
