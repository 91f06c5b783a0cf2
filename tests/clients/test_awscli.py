"""The AWS CLI, as it comes, completes a day's work."""

import base64
import json

from service import ACCOUNT


def test_a_days_work(service, tmp_path):
    assert service.aws("sts", "get-caller-identity")["Account"] == ACCOUNT
    key = service.aws("kms", "create-key", "--description", "a day's work", "--tags", "TagKey=team,TagValue=ops")
    key = key["KeyMetadata"]["KeyId"]
    alias = f"alias/cli-{key[:8]}"
    service.aws("kms", "create-alias", "--alias-name", alias, "--target-key-id", key)

    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(b"from a file\n")
    context = ["--encryption-context", "tenant=1,purpose=backup"]
    answer = service.aws("kms", "encrypt", "--key-id", alias, "--plaintext", f"fileb://{plain}", *context)
    sealed.write_bytes(base64.b64decode(answer["CiphertextBlob"]))
    answer = service.aws("kms", "decrypt", "--ciphertext-blob", f"fileb://{sealed}", *context)
    assert base64.b64decode(answer["Plaintext"]) == b"from a file\n"

    data_key = service.aws("kms", "generate-data-key", "--key-id", key, "--key-spec", "AES_256")
    assert len(base64.b64decode(data_key["Plaintext"])) == 32
    assert "Plaintext" not in service.aws(
        "kms", "generate-data-key-without-plaintext", "--key-id", key, "--number-of-bytes", "24"
    )

    policy = tmp_path / "policy.json"
    text = service.aws("kms", "get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"]
    policy.write_text(text.replace("Enable IAM User Permissions", "The account decides"))
    service.aws("kms", "put-key-policy", "--key-id", key, "--policy-name", "default", "--policy", f"file://{policy}")
    again = service.aws("kms", "get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"]
    assert json.loads(again)["Statement"][0]["Sid"] == "The account decides"

    service.aws("kms", "tag-resource", "--key-id", key, "--tags", "TagKey=stage,TagValue=test")
    service.aws("kms", "untag-resource", "--key-id", key, "--tag-keys", "team")
    assert service.aws("kms", "list-resource-tags", "--key-id", key)["Tags"] == [{"TagKey": "stage", "TagValue": "test"}]
    assert key in [one["KeyId"] for one in service.aws("kms", "list-keys")["Keys"]]
    assert alias in [one["AliasName"] for one in service.aws("kms", "list-aliases")["Aliases"]]

    service.aws("kms", "disable-key", "--key-id", key)
    failed = service.aws("kms", "encrypt", "--key-id", key, "--plaintext", f"fileb://{plain}", check=False)
    assert failed.returncode != 0 and "DisabledException" in failed.stderr
    service.aws("kms", "enable-key", "--key-id", key)

    scheduled = service.aws("kms", "schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")
    assert scheduled["KeyState"] == "PendingDeletion"
    service.aws("kms", "cancel-key-deletion", "--key-id", key)
    described = service.aws("kms", "describe-key", "--key-id", key)["KeyMetadata"]
    assert described["KeyState"] == "Disabled"
    service.aws("kms", "delete-alias", "--alias-name", alias)


def test_refusals_are_told_as_by_aws(service):
    elsewhere = ["--custom-key-store-name", "x", "--custom-key-store-type", "EXTERNAL_KEY_STORE"]
    for arguments, who, code in [
        (["create-key"], "nobody", "AccessDeniedException"),
        (["describe-key", "--key-id", "alias/nothing-here"], "administrator", "NotFoundException"),
        (["create-custom-key-store", *elsewhere], "administrator", "UnsupportedOperationException"),
    ]:
        failed = service.aws("kms", *arguments, who=who, check=False)
        assert failed.returncode != 0 and f"({code})" in failed.stderr, failed.stderr


def test_events_are_looked_up_in_the_log(service, tmp_path):
    key = service.aws("kms", "create-key")["KeyMetadata"]["Arn"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"looked up")
    for _ in range(3):
        service.aws("kms", "encrypt", "--key-id", key, "--plaintext", f"fileb://{plain}")
    lookup = ["cloudtrail", "lookup-events", "--lookup-attributes", f"AttributeKey=ResourceName,AttributeValue={key}"]
    events = service.aws(*lookup)["Events"]
    assert [event["EventName"] for event in events] == ["Encrypt"] * 3 + ["CreateKey"]
    assert service.aws(*lookup, "--max-results", "2", "--no-paginate")["Events"] == events[:2]
    # The CLI follows the tokens by itself.
    assert service.aws(*lookup, "--page-size", "1")["Events"] == events
    assert service.aws(*lookup, "--max-items", "3")["Events"] == events[:3]
    assert service.aws(*lookup, "--start-time", "2000-01-01", "--end-time", "2000-01-02")["Events"] == []
    told = json.loads(events[0]["CloudTrailEvent"])
    assert (told["eventID"], told["requestParameters"]["keyId"]) == (events[0]["EventId"], key)
    assert (events[0]["Username"], events[0]["ReadOnly"]) == ("administrator", "true")
    refused = service.aws(*lookup, who="nobody", check=False)
    assert refused.returncode != 0 and "AccessDeniedException" in refused.stderr
