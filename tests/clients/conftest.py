"""Fixtures: a service on each transport for the journeys, and fresh ones for the tests that need their own."""

import os

import pytest

from moto_server import Moto
from service import Broker, Service
from workplace import Workplace


def start_broker(folder):
    """A real broker. `make test` sets KEYTRAIL_TEST_BROKERS when Kafka could be set up; CI must have it."""
    if "KEYTRAIL_TEST_BROKERS" not in os.environ:
        assert os.environ.get("CI") != "true", "CI must run the Kafka journeys: use make test"
        pytest.skip("KAFKA JOURNEYS DID NOT RUN: no broker could be set up")
    broker = Broker(folder)
    yield broker
    broker.script("stop")


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory):
    yield from start_broker(tmp_path_factory.mktemp("broker"))


@pytest.fixture
def broker(tmp_path):
    """A broker without another service's log in it: a log that a trail was not told of is a finding."""
    yield from start_broker(tmp_path / "broker")


@pytest.fixture(scope="session", params=["journal", "kafka"])
def service(request, tmp_path_factory):
    """A service that many tests share; after all of them its folder must verify."""
    flags = []
    if request.param == "kafka":
        flags = ["--brokers", request.getfixturevalue("shared_broker").address]
    service = Service(tmp_path_factory.mktemp(request.param) / "data", *flags).init()
    with open(service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
        # AWS's own is one in four seconds.
        file.write('\n[quotas]\nGetParametersForImport = "100/s"\n')
    with service:
        assert service.ready["transport"] == request.param
        yield service
    done = service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


def open_workplace(folder, secure):
    with Workplace(folder, secure) as workplace:
        yield workplace


@pytest.fixture(scope="session")
def plain_workplace(tmp_path_factory):
    yield from open_workplace(tmp_path_factory.mktemp("plain") / "workplace", secure=False)


@pytest.fixture(scope="session")
def tls_workplace(tmp_path_factory):
    yield from open_workplace(tmp_path_factory.mktemp("tls") / "workplace", secure=True)


@pytest.fixture(params=["plain", "tls"])
def workplace(request):
    return request.getfixturevalue(f"{request.param}_workplace")


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """The address of S3 and DynamoDB as moto plays them."""
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server.endpoint


@pytest.fixture
def own_service(tmp_path):
    """A service that is not shared and not started; stopped in the end."""
    service = Service(tmp_path / "data").init()
    yield service
    service.stop()


@pytest.fixture
def kms(service):
    return service.client()


@pytest.fixture
def key(kms):
    """A fresh key's id."""
    return kms.create_key()["KeyMetadata"]["KeyId"]
