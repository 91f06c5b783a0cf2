"""A Python consumer reads the topics, in the words of the documentation only."""

import hashlib
import json
import struct

from confluent_kafka import Consumer, TopicPartition

from service import Service, wait_for

# docs/chain.md: version, log id, epoch, seq, kind, time, payload length, payload digest, previous link.
LEAF = struct.Struct(">B16sQQBQI32s32s")


def consumer_of(broker, topic):
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "reader", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    return consumer


def messages_of(consumer, log, known):
    """Adds messages of one log until there are none for a moment."""
    while (message := consumer.poll(0.5)) is not None:
        assert message.error() is None, message.error()
        if message.key().decode() == log:
            known.append(message)
    return known


def test_records_and_checkpoints_are_on_the_topics(tmp_path, broker):
    with Service(tmp_path / "data", "--brokers", broker.address).init() as service:
        kms = service.client()
        created = kms.create_key(Description="read from Kafka")
        key = created["KeyMetadata"]["KeyId"]
        for _ in range(50):
            kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        headers = kms.describe_key(KeyId=key)["ResponseMetadata"]["HTTPHeaders"]
    log, last_seq = headers["x-keytrail-log"], int(headers["x-keytrail-seq"])

    audit, messages = consumer_of(broker, "keytrail.audit"), []
    wait_for("the records", lambda: len({seq_of(one) for one in messages_of(audit, log, messages)}) > last_seq)
    by_seq = {}
    for message in messages:
        leaf, salt = parts_of(message)
        version, log_id, _, seq, _, _, length, digest, _ = LEAF.unpack(leaf)
        assert (version, log_id.hex(), length) == (1, log, len(message.value()))
        assert digest == hashlib.sha256(salt + message.value()).digest()
        assert by_seq.setdefault(seq, message.value()) == message.value()
    assert sorted(by_seq)[: last_seq + 1] == list(range(last_seq + 1)), "no record is missing"
    assert hashlib.sha256(b"\0" + leaf_of(messages, last_seq)).hexdigest() == headers["x-keytrail-leaf"]
    events = [json.loads(by_seq[seq]) for seq in sorted(by_seq)]
    names = [event["eventName"] for event in events if "eventName" in event]
    assert names.count("GenerateDataKey") == 50 and "CreateKey" in names

    checkpoints, notes = consumer_of(broker, "keytrail.checkpoints"), []
    wait_for("a checkpoint", lambda: messages_of(checkpoints, log, notes))
    origin, size, _root = notes[-1].value().decode().splitlines()[:3]
    assert hashlib.sha256(origin.encode()).hexdigest()[:32] == log
    assert int(size) <= max(by_seq) + 1


def parts_of(message):
    headers = dict(message.headers())
    assert set(headers) == {"salt", "leaf"}
    return headers["leaf"], headers["salt"]


def seq_of(message):
    return LEAF.unpack(parts_of(message)[0])[3]


def leaf_of(messages, seq):
    return next(parts_of(message)[0] for message in messages if seq_of(message) == seq)
