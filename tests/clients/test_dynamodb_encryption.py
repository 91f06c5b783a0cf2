"""The DynamoDB Encryption Client: a data key of ours for each item, bound to its table and its primary key."""

import json

import boto3
import pytest
from dynamodb_encryption_sdk.encrypted.table import EncryptedTable
from dynamodb_encryption_sdk.exceptions import UnwrappingError, WrappingError
from dynamodb_encryption_sdk.identifiers import CryptoAction
from dynamodb_encryption_sdk.material_providers.aws_kms import AwsKmsCryptographicMaterialsProvider
from dynamodb_encryption_sdk.structures import AttributeActions

from moto_server import store
from service import REGION

ITEM = {"tenant": "7", "note": "call back", "amount": 12}


def test_items_are_sealed_with_a_key_of_ours(tls_workplace, moto):
    key = tls_workplace.key()
    plain = store(moto, "dynamodb", boto3.resource).create_table(
        TableName="notes",
        KeySchema=[{"AttributeName": "tenant", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "tenant", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def table(role):
        provider = AwsKmsCryptographicMaterialsProvider(key, regional_clients={REGION: tls_workplace.kms(role)})
        actions = AttributeActions(attribute_actions={"tenant": CryptoAction.SIGN_ONLY})
        return EncryptedTable(table=plain, materials_provider=provider, attribute_actions=actions)

    table("worker").put_item(Item=ITEM)
    sealed = plain.get_item(Key={"tenant": "7"})["Item"]
    assert sealed["tenant"] == "7" and b"call back" not in bytes(sealed["note"])
    assert table("worker").get_item(Key={"tenant": "7"})["Item"] == ITEM
    with pytest.raises(UnwrappingError):
        table("visitor").get_item(Key={"tenant": "7"})
    with pytest.raises(WrappingError):
        table("visitor").put_item(Item=ITEM)

    # An item that was moved to another tenant names another context than the one its data key was made with.
    plain.put_item(Item=sealed | {"tenant": "8"})
    with pytest.raises(UnwrappingError):
        table("worker").get_item(Key={"tenant": "8"})

    rows = tls_workplace.events(key, "event_name, error_code, enc_context")
    told = [(row["event_name"], row.get("error_code")) for row in rows[1:]]
    assert told == [
        ("GenerateDataKey", None),
        ("Decrypt", None),
        ("Decrypt", "AccessDenied"),
        ("GenerateDataKey", "AccessDenied"),
        ("Decrypt", "InvalidCiphertextException"),
    ]
    context = json.loads(rows[1]["enc_context"])
    assert context["tenant"] == "7" and context["*aws-kms-table*"] == "notes"
