"""Calls made from botocore's own model of the service: valid, at a bound, past it, without a member, of a wrong type.

They are signed as an SDK signs them but go past its validation, as a stranger's would. Whatever comes back must be what
the model says: an output of that shape or one of that operation's errors, never a failure of ours; and each call is in
the log once. A failure prints the seed: KEYTRAIL_MODEL_SEED=SEED runs the same calls again.
"""

import base64
import collections
import configparser
import json
import os
import random

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

from service import ACCOUNT, REGION, Service, wait_for

MODEL = botocore.session.Session().get_service_model("kms")

# Deliberately absent: these, and no others, refuse a valid call with UnsupportedOperationException.
ABSENT = {
    "Decapsulate",
    "Encapsulate",
}
# Errors that AWS lists for all operations of all services, beside those that the model has for each.
COMMON = {
    "AccessDeniedException",
    "SerializationException",
    "ThrottlingException",
    "UnsupportedOperationException",
    "ValidationException",
}
# What AWS answers although its model leaves it out, each with the reason.
UNMODELLED = {
    # Names under alias/aws/ are the services'; NotAuthorized is one of AWS's common errors.
    "CreateAlias": {"NotAuthorizedException"},
    "DeleteAlias": {"NotAuthorizedException"},
    "UpdateAlias": {"NotAuthorizedException"},
    # Both take the member whose refusal the model gives to their neighbours only.
    "DescribeKey": {"InvalidGrantTokenException"},
    "ListKeyPolicies": {"InvalidMarkerException"},
}
# Mixes of a valid call's members and broken ones, for each operation.
MIXES = 12
ROOT_POLICY = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}


class Wire:
    """Signed JSON, without a client's validation, its retries or its reading of answers."""

    def __init__(self, service):
        self.endpoint, self.http, self.calls = service.endpoint, URLLib3Session(), collections.Counter()
        people = configparser.ConfigParser()
        people.read(service.people["administrator"].credentials)
        keys = people["default"]
        self.credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"])

    def call(self, operation, body):
        headers = {"X-Amz-Target": f"TrentService.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{self.endpoint}/", headers=headers, data=json.dumps(body).encode())
        SigV4Auth(self.credentials, "kms", REGION).add_auth(request)
        answer = self.http.send(request.prepare())
        self.calls[operation] += 1
        return answer.status_code, json.loads(answer.content or b"{}")


class Generator:
    """Bodies for an operation's input, from its shape and from keys that are there."""

    def __init__(self, seed, keys):
        self.random, self.keys = random.Random(seed), keys

    def body(self, operation, every=False):
        """What the model calls valid: all required members, and some or every other."""
        shape = MODEL.operation_model(operation).input_shape
        return self.value(shape, every) if shape else {}

    def value(self, shape, every=False, name=""):
        if shape.type_name == "structure":
            wanted = [
                member
                for member in shape.members
                if member in shape.required_members or every or self.random.random() < 0.3
            ]
            return {member: self.value(shape.members[member], every, member) for member in wanted}
        if shape.type_name == "list":
            fewest = max(shape.metadata.get("min", 0), 1)
            return [self.value(shape.member, every, name) for _ in range(fewest)]
        if shape.type_name == "map":
            return {self.text(shape.key, "tenant"): self.text(shape.value, "value")}
        return self.scalar(shape, name)

    def scalar(self, shape, name):
        if shape.type_name == "boolean":
            # A key nobody can administer would end the run's use of it.
            return name != "BypassPolicyLockoutSafetyCheck" and self.random.random() < 0.5
        if shape.type_name in ("integer", "long"):
            return self.random.randint(shape.metadata.get("min", 1), min(shape.metadata.get("max", 100), 100))
        if shape.type_name == "timestamp":
            return 4_000_000_000
        if shape.type_name == "blob":
            return base64.b64encode(self.random.randbytes(shape.metadata.get("min", 1) + 31)).decode()
        return self.text(shape, name)

    def text(self, shape, name):
        enum = shape.metadata.get("enum")
        if enum:
            return self.random.choice(enum)
        if name in ("KeyId", "TargetKeyId", "SourceKeyId", "DestinationKeyId"):
            return self.random.choice(self.keys)
        if name in ("GranteePrincipal", "RetiringPrincipal"):
            return f"arn:aws:iam::{ACCOUNT}:user/app"
        known = {
            "AliasName": f"alias/model-{self.random.randrange(50)}",
            "Policy": json.dumps({"Version": "2012-10-17", "Statement": [ROOT_POLICY]}),
            "PolicyName": "default",
            "PrimaryRegion": "eu-west-1",
            "ReplicaRegion": "eu-west-1",
        }
        return known.get(name) or "m" * max(shape.metadata.get("min", 1), 1)

    def broken(self, operation):
        """(what is wrong, body), one for each way to break each member."""
        shape = MODEL.operation_model(operation).input_shape
        for member, of in shape.members.items() if shape else ():
            whole = self.body(operation)
            if member in shape.required_members:
                yield f"no {member}", {key: value for key, value in whole.items() if key != member}
            yield f"null {member}", whole | {member: None}
            for wrong, value in edges(of):
                yield f"{wrong} {member}", whole | {member: value}


def edges(shape):
    """Values of a wrong type, and values on and past each bound."""
    wrong = {"string": 5, "blob": 5, "list": "text", "map": ["list"], "structure": "text", "boolean": "yes"}
    yield "mistyped", wrong.get(shape.type_name, "text")
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if shape.type_name in ("integer", "long"):
        yield from (("bound", at) for at in (low, high) if at is not None)
        yield "below", (low or 0) - 1
        yield "above", (high or 2**31 - 1) + 1
        yield "huge", 2**70
        yield "fraction", 1.5
    if shape.metadata.get("enum"):
        yield "unknown", "NO_SUCH_VALUE"
    for length in lengths(low, high):
        if shape.type_name == "string" and not shape.metadata.get("enum"):
            yield f"{length} long", "x" * length
        if shape.type_name == "blob":
            yield f"{length} long", base64.b64encode(bytes(length)).decode()
        if shape.type_name == "list":
            yield f"{length} long", [filler(shape.member, at) for at in range(length)]
    if shape.type_name == "string":
        yield "strange", "\x00\u2028\U0001f511'\"\\"
    if shape.type_name == "blob":
        yield "not base64", "*not base64*"
    if shape.type_name == "map":
        yield "nested", {"a": {"b": "c"}}
        yield "null inside", {"a": None}
    if shape.type_name == "list":
        yield "null inside", [None]


def lengths(low, high):
    yield 0
    if low and low > 1:
        yield from (low - 1, low)
    if high and high <= 200_000:
        yield from (high, high + 1)


def filler(shape, at):
    if shape.type_name == "structure":
        return {name: f"{name}{at}" for name in shape.members}
    return f"x{at}"


def faults(shape, value, path="answer"):
    """Where an answer is not what the model says of it."""
    types = {"structure": dict, "map": dict, "list": list, "string": str, "blob": str, "boolean": bool}
    types |= {"integer": int, "long": int, "timestamp": (int, float)}
    wanted = types[shape.type_name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        yield f"{path} is {type(value).__name__}, not {shape.type_name}"
        return
    if shape.type_name == "structure":
        yield from (f"{path}.{name} is missing" for name in shape.required_members if name not in value)
        for name, inner in value.items():
            if name not in shape.members:
                yield f"{path}.{name} is not in the model"
            else:
                yield from faults(shape.members[name], inner, f"{path}.{name}")
    if shape.type_name == "list":
        for at, inner in enumerate(value):
            yield from faults(shape.member, inner, f"{path}[{at}]")
    if shape.type_name == "map":
        for key, inner in value.items():
            yield from faults(shape.value, inner, f"{path}[{key}]")
    if shape.type_name == "blob":
        base64.b64decode(value, validate=True)
    if shape.metadata.get("enum") and value not in shape.metadata["enum"]:
        yield f"{path} has a value that the model does not: {value}"


def judge(operation, status, answer):
    """What is wrong with an answer; nothing if it conforms."""
    model = MODEL.operation_model(operation)
    if status == 200:
        if model.output_shape is None:
            return [f"has a body: {sorted(answer)}"] if answer else []
        return list(faults(model.output_shape, answer))
    code = answer.get("__type", "no __type")
    modelled = {error.metadata.get("error", {}).get("code", error.name) for error in model.error_shapes}
    modelled |= {error.name for error in model.error_shapes}
    # A KMSInternalException is modelled, and still a failure of ours: nothing here takes a disk away.
    if status != 400 or code == "KMSInternalException":
        return [f"is {status} {code}"]
    allowed = modelled | COMMON | UNMODELLED.get(operation, set())
    return [] if code in allowed else [f"is {code}, which the model does not have"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("model") / "data").init() as service:
        yield service


@pytest.fixture(scope="module")
def wire(fresh):
    return Wire(fresh)


@pytest.fixture(scope="module")
def keys(wire):
    """Keys of several kinds; calls may disable them, and schedule their deletion."""
    wanted = [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")] * 3
    wanted += [("ECC_NIST_P256", "SIGN_VERIFY"), ("ECC_NIST_P256", "KEY_AGREEMENT"), ("HMAC_256", "GENERATE_VERIFY_MAC")]
    made = [wire.call("CreateKey", {"KeySpec": spec, "KeyUsage": usage})[1] for spec, usage in wanted]
    return [answer["KeyMetadata"]["KeyId"] for answer in made]


@pytest.fixture(scope="module")
def seed():
    return int(os.environ.get("KEYTRAIL_MODEL_SEED", random.SystemRandom().randrange(2**32)))


@pytest.mark.parametrize("operation", MODEL.operation_names)
def test_answers_conform_to_the_model(wire, keys, seed, operation):
    generator = Generator(f"{seed}/{operation}", keys)
    bodies = [("nothing", {}), ("everything", generator.body(operation, every=True))]
    bodies += [("valid", generator.body(operation)) for _ in range(MIXES)]
    bodies += list(generator.broken(operation))
    wrong = []
    for what, body in bodies:
        status, answer = wire.call(operation, body)
        wrong += [f"{what}: {fault}; body {json.dumps(body)[:200]}" for fault in judge(operation, status, answer)]
    assert not wrong, f"KEYTRAIL_MODEL_SEED={seed}\n" + "\n".join(wrong)


@pytest.mark.parametrize("operation", sorted(ABSENT))
def test_an_absent_operation_says_so(wire, keys, operation):
    status, answer = wire.call(operation, Generator(operation, keys).body(operation))
    assert (status, answer.get("__type")) == (400, "UnsupportedOperationException")


def test_no_other_operation_is_absent(wire):
    """An operation that is there looks at the call first: members of a wrong type are refused as that."""
    for operation in sorted(set(MODEL.operation_names) - ABSENT):
        shape = MODEL.operation_model(operation).input_shape
        body = {name: {"wrong": ["type"]} for name in shape.members}
        status, answer = wire.call(operation, body)
        assert (status, answer["__type"]) == (400, "SerializationException"), operation


def test_each_call_is_in_the_log_once_and_the_log_verifies(fresh, wire, keys):
    """Last in the file: it looks at what the others did, and stops the service."""
    status, answer = wire.call("DescribeKey", {"KeyId": keys[0]})
    assert status == 200, f"the service lives: {answer}"
    query = "SELECT event_name, count(*) AS n FROM events WHERE principal_arn LIKE '%:user/administrator'"
    query += " AND event_source = 'kms.amazonaws.com' GROUP BY event_name"

    def logged():
        return {row["event_name"]: row["n"] for row in fresh.sql(query)}

    wait_for("the last call in the lake", lambda: sum(logged().values()) >= wire.calls.total())
    assert logged() == dict(wire.calls)
    fresh.stop()
    done = fresh.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr
