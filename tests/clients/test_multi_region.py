"""Regions of one service by boto3: multi-Region keys in two of them, and containment where the key is."""

import json

import pytest

from service import ACCOUNT, REGION, Service, wait_for
from test_boto3 import refused

OTHER = "eu-west-1"
ROOT = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
EVERYONE = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    """A service of two regions whose playbooks act."""
    service = Service(tmp_path_factory.mktemp("regions") / "data", "--enforce").init()
    path = service.folder / "keytrail.toml"
    line = f'region = "{REGION}"\n'
    path.write_text(path.read_text().replace(line, f'{line}regions = ["{REGION}", "{OTHER}"]\n', 1))
    with service:
        yield service
    done = service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def home(regions):
    return regions.client()


@pytest.fixture
def other(regions):
    return regions.client(region=OTHER)


def state(kms, key):
    return kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]


@pytest.fixture
def related(home, other):
    """The id of a primary key with a replica that is ready."""
    key = home.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    made = home.replicate_key(KeyId=key, ReplicaRegion=OTHER)["ReplicaKeyMetadata"]
    assert (made["KeyState"], made["Enabled"]) == ("Creating", False)
    wait_for("the replica", lambda: state(other, key) == "Enabled")
    return key


def test_what_one_region_encrypts_the_other_decrypts(home, other, related):
    context = {"tenant": "7"}
    for source, target in ((home, other), (other, home)):
        sealed = source.encrypt(KeyId=related, Plaintext=b"text", EncryptionContext=context)["CiphertextBlob"]
        opened = target.decrypt(CiphertextBlob=sealed, EncryptionContext=context)
        assert opened["Plaintext"] == b"text"
        assert opened["KeyId"] == target.describe_key(KeyId=related)["KeyMetadata"]["Arn"]
        data_key = source.generate_data_key(KeyId=related, KeySpec="AES_256")
        assert target.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
    regions = {source.meta.region_name: source.list_keys()["Keys"] for source in (home, other)}
    for region, keys in regions.items():
        assert {"KeyId": related, "KeyArn": f"arn:aws:kms:{region}:{ACCOUNT}:key/{related}"} in keys


def test_keys_of_one_region_stay_there(home, other):
    key = home.create_key()["KeyMetadata"]
    sealed = home.encrypt(KeyId=key["KeyId"], Plaintext=b"text")["CiphertextBlob"]
    home.create_alias(AliasName="alias/here", TargetKeyId=key["KeyId"])
    for name in (key["KeyId"], key["Arn"], "alias/here"):
        with refused("NotFoundException"):
            other.describe_key(KeyId=name)
    with refused("AccessDeniedException"):
        other.decrypt(CiphertextBlob=sealed)


def test_the_primary_key_moves_and_rotates(regions, home, other, related):
    with refused("UnsupportedOperationException"):
        other.enable_key_rotation(KeyId=related)
    home.update_primary_region(KeyId=related, PrimaryRegion=OTHER)
    wait_for("the new primary key", lambda: {state(kms, related) for kms in (home, other)} == {"Enabled"})
    configuration = home.describe_key(KeyId=related)["KeyMetadata"]["MultiRegionConfiguration"]
    assert configuration["MultiRegionKeyType"] == "REPLICA" and configuration["PrimaryKey"]["Region"] == OTHER
    before = home.encrypt(KeyId=related, Plaintext=b"before")["CiphertextBlob"]
    material = home.describe_key(KeyId=related)["KeyMetadata"]["CurrentKeyMaterialId"]
    other.rotate_key_on_demand(KeyId=related)

    def rotated():
        return home.describe_key(KeyId=related)["KeyMetadata"]["CurrentKeyMaterialId"] != material

    wait_for("the rotation in the replica's region", rotated)
    after = home.encrypt(KeyId=related, Plaintext=b"after")["CiphertextBlob"]
    assert [other.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in (before, after)] == [b"before", b"after"]
    query = f"SELECT event_name, region FROM events WHERE key_arn LIKE '%{related}' AND NOT read_only ORDER BY seq"

    def told():
        return [(row["event_name"], row["region"]) for row in regions.sql(query)]

    last = [("RotateKey", OTHER), ("SynchronizeMultiRegionKey", REGION)]
    wait_for("the rotation in the lake", lambda: told()[-2:] == last)
    assert ("UpdatePrimaryRegion", REGION) in told() and ("UpdatePrimaryRegion", OTHER) in told()
    query = f"SELECT region, key_state, key_material_id FROM keys WHERE key_id = '{related}' ORDER BY region"
    rows = regions.sql(query)
    now = home.describe_key(KeyId=related)["KeyMetadata"]["CurrentKeyMaterialId"]
    assert rows == [{"region": region, "key_state": "Enabled", "key_material_id": now} for region in (OTHER, REGION)]


def test_a_primary_key_waits_for_its_replica(home, other, related):
    answer = home.schedule_key_deletion(KeyId=related, PendingWindowInDays=7)
    assert answer["KeyState"] == "PendingReplicaDeletion" and "DeletionDate" not in answer
    assert home.describe_key(KeyId=related)["KeyMetadata"]["PendingDeletionWindowInDays"] == 7
    assert other.encrypt(KeyId=related, Plaintext=b"x")["CiphertextBlob"]


def test_containment_acts_where_the_key_is(regions, home, other, related):
    """The replica is opened to everyone: the responder disables it there, and leaves the primary key alone."""
    other.tag_resource(KeyId=related, Tags=[{"TagKey": "on-exposure", "TagValue": "disable"}])
    policy = other.get_key_policy(KeyId=related)["Policy"]
    opened = json.dumps({"Version": "2012-10-17", "Statement": [ROOT, EVERYONE]})
    regions.client("engineer", region=OTHER).put_key_policy(KeyId=related, Policy=opened)
    wait_for("the replica's policy to come back", lambda: other.get_key_policy(KeyId=related)["Policy"] == policy)
    wait_for("the replica to be disabled", lambda: state(other, related) == "Disabled")
    assert state(home, related) == "Enabled"
    with refused("AccessDeniedException"):
        regions.client("engineer").encrypt(KeyId=related, Plaintext=b"quarantined in every region")


def test_identities_are_in_no_region(regions):
    regions.client(service="iam", region=OTHER).create_user(UserName="everywhere")
    for region in (REGION, OTHER):
        assert regions.client(service="sts", region=region).get_caller_identity()["Account"] == ACCOUNT
        found = regions.client(service="iam", region=region).get_user(UserName="everywhere")["User"]
        assert found["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/everywhere"
    with refused("InvalidSignatureException"):
        regions.client(region="ap-south-1").list_keys()
