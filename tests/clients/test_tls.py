"""TLS: boto3 and the AWS CLI over it, client certificates, new certificates while the service runs."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request

import botocore.exceptions
import pytest
from cryptography import x509

from authority import Authority, put
from service import KEYTRAIL, Service, run, wait_for


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def client(service, authority, **config):
    return service.client(verify=str(authority.pem), **config)


def is_open(policy):
    return any(one["Effect"] == "Allow" and one["Principal"] == "*" for one in json.loads(policy)["Statement"])


def shown(service):
    """Serial number of the certificate that the service shows now."""
    host, port = service.endpoint.removeprefix("https://").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)).serial_number


def test_clients_work_over_tls_and_the_log_says_so(tmp_path, authority):
    authority.make("server")
    with Service(tmp_path / "data", "--enforce", *authority.flags("server")).init() as service:
        assert service.endpoint.startswith("https://")
        kms = client(service, authority)
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key, Plaintext=b"over the wire")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over the wire"

        # With a session token, too.
        session = service.client(service="sts", verify=str(authority.pem)).get_session_token()["Credentials"]
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
        }
        environment |= {"AWS_CA_BUNDLE": str(authority.pem), "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(tmp_path)}
        done = run("aws", "--endpoint-url", service.endpoint, "kms", "describe-key", "--key-id", key, env=environment)
        assert json.loads(done.stdout)["KeyMetadata"]["KeyId"] == key

        policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
        plain_text = {"Bool": {"aws:SecureTransport": "false"}}
        deny = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": plain_text}
        policy["Statement"].append(deny)
        kms.put_key_policy(KeyId=key, Policy=json.dumps(policy))
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over the wire"

        # Trail and responder reach the node beside TLS: an exposed key's policy is put back.
        policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"})
        kms.put_key_policy(KeyId=key, Policy=json.dumps(policy))
        wait_for("the policy's return", lambda: not is_open(kms.get_key_policy(KeyId=key)["Policy"]))
        rows = service.sql("SELECT CAST(raw AS STRING) AS raw FROM events WHERE event_name = 'Decrypt'")
        details = [json.loads(row["raw"])["tlsDetails"] for row in rows]
        assert {detail["tlsVersion"] for detail in details} == {"TLSv1.3"}
        assert {detail["clientProvidedHostHeader"] for detail in details} == {service.endpoint.removeprefix("https://")}
    assert service.verify().returncode == 0


def test_a_changed_certificate_is_taken_and_a_bad_one_is_not(tmp_path, authority):
    first = authority.make("server")
    with Service(tmp_path / "data", *authority.flags("server")).init() as service:
        assert shown(service) == first.serial_number
        second = authority.make("server")
        wait_for("the new certificate", lambda: shown(service) == second.serial_number)
        put(tmp_path / "server.pem", b"not a certificate\n", 0o644)
        third = authority.make("other")
        # Whatever is looked at after it shows that the bad one was looked at, too.
        put(tmp_path / "server.key", (tmp_path / "other.key").read_bytes(), 0o600)
        client(service, authority).list_keys()
        assert shown(service) == second.serial_number
        put(tmp_path / "server.pem", (tmp_path / "other.pem").read_bytes(), 0o644)
        wait_for("the next good one", lambda: shown(service) == third.serial_number)


def test_clients_need_a_certificate_where_one_is_asked_for(tmp_path, authority):
    authority.make("server")
    authority.make("app")
    flags = [*authority.flags("server"), "--tls-client-ca", authority.pem]
    with Service(tmp_path / "data", *flags).init() as service:
        pair = (str(tmp_path / "app.pem"), str(tmp_path / "app.key"))
        key = client(service, authority, client_cert=pair).create_key()["KeyMetadata"]["KeyId"]
        with pytest.raises(botocore.exceptions.ConnectionError):
            client(service, authority).describe_key(KeyId=key)
        stranger = Authority(tmp_path, "stranger")
        stranger.make("intruder")
        with pytest.raises(botocore.exceptions.ConnectionError):
            pair = (str(tmp_path / "intruder.pem"), str(tmp_path / "intruder.key"))
            client(service, authority, client_cert=pair).describe_key(KeyId=key)
        # The node's own parts have none and need none.
        wait_for("the event", lambda: service.sql("SELECT 1 AS one FROM events WHERE event_name = 'CreateKey'"))


def part(verb, folder, *flags):
    """One of the parts as a process of its own, once it serves; gives the process and its ready line."""
    command = [KEYTRAIL, verb, "--data", folder, *flags]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    line = next((line for line in process.stdout if line.startswith("ready ")), None)
    assert line, f"{verb}: exit {process.wait()}"
    return process, dict(word.split("=", 1) for word in line.split()[1:])


def test_trail_and_responder_on_another_machine_reach_the_node_through_tls(tmp_path, authority, broker):
    """Two folders stand for two machines: what the second one needs of the first is copied as docs/operations.md says."""
    authority.make("server")
    authority.make("parts")
    near, far = Service(tmp_path / "near").init(), tmp_path / "far"
    (far / "checkpoints").mkdir(parents=True)
    for name in ["service-credentials", "keytrail.toml", "checkpoints/vkey"]:
        shutil.copy(near.folder / name, far / name)
    shutil.copytree(near.folder / "rules", far / "rules")
    flags = ["--brokers", broker.address]
    tls = [*authority.flags("server"), "--tls-client-ca", authority.pem]
    kms, fields = part("kms", near.folder, "--listen", "127.0.0.1:0", *flags, *tls)
    processes = [kms]
    try:
        near.endpoint = fields["kms"]
        own = {"cert_file": tmp_path / "parts.pem", "key_file": tmp_path / "parts.key"}
        remote = {"url": near.endpoint, "ca_file": authority.pem} | own
        lines = [f'{name} = "{value}"' for name, value in remote.items()]
        with open(far / "keytrail.toml", "a", encoding="utf-8") as file:
            file.write("\n[endpoint]\n" + "\n".join(lines) + "\n")
        processes.append(part("trail", far, *flags)[0])
        processes.append(part("responder", far, *flags, "--enforce")[0])
        pair = str(tmp_path / "parts.pem"), str(tmp_path / "parts.key")
        client_of = near.client(verify=str(authority.pem), client_cert=pair)
        key = client_of.create_key()["KeyMetadata"]["KeyId"]
        policy = json.loads(client_of.get_key_policy(KeyId=key)["Policy"])
        policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"})
        client_of.put_key_policy(KeyId=key, Policy=json.dumps(policy))
        wait_for("the policy's return", lambda: not is_open(client_of.get_key_policy(KeyId=key)["Policy"]))
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            process.stdout.close()


def test_the_end_of_the_certificate_is_a_metric(tmp_path, authority):
    certificate = authority.make("server")
    flags = [*authority.flags("server"), "--health", "127.0.0.1:0"]
    with Service(tmp_path / "data", *flags).init() as service:
        with urllib.request.urlopen(f"http://{service.ready['health'].split(',')[0]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        ends = next(line for line in lines if line.startswith("keytrail_kms_certificate_ends_seconds "))
        assert int(ends.split()[1]) == int(certificate.not_valid_after_utc.timestamp())


@pytest.mark.parametrize("spoil", ["open", "missing", "other", "remote"])
def test_what_cannot_be_served_is_said_at_the_start(tmp_path, authority, spoil):
    authority.make("server")
    authority.make("other")
    flags, listen = authority.flags("server"), "127.0.0.1:0"
    if spoil == "open":
        (tmp_path / "server.key").chmod(0o644)
        wanted = "open to everyone"
    elif spoil == "missing":
        (tmp_path / "server.pem").unlink()
        wanted = "server.pem"
    elif spoil == "other":
        put(tmp_path / "server.key", (tmp_path / "other.key").read_bytes(), 0o600)
        wanted = "use certificate and key"
    else:
        flags, listen, wanted = [], "0.0.0.0:0", "needs a certificate"
    command = [KEYTRAIL, "up", "--data", tmp_path / "data", "--listen", listen, "--account", "123456789012", *flags]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and wanted in done.stderr + done.stdout, done.stderr
