"""The AWS Encryption SDK for Python, with each keyring of AWS's Material Providers that calls KMS."""

import json

import aws_encryption_sdk
import botocore.session
import pytest
from aws_cryptographic_material_providers.keystore.client import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.keystore.models import (
    CreateKeyInput,
    CreateKeyStoreInput,
    KMSConfigurationKmsKeyArn,
    VersionKeyInput,
)
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.errors import ServiceError
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsDiscoveryKeyringInput,
    CreateAwsKmsEcdhKeyringInput,
    CreateAwsKmsHierarchicalKeyringInput,
    CreateAwsKmsKeyringInput,
    CreateAwsKmsMrkKeyringInput,
    CreateAwsKmsRsaKeyringInput,
    CreateMultiKeyringInput,
    DiscoveryFilter,
    KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey,
    KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery,
    KmsPrivateKeyToStaticPublicKeyInput,
    KmsPublicKeyDiscoveryInput,
)
from aws_encryption_sdk import Algorithm
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError, DecryptKeyError, GenerateKeyError
from cryptography.hazmat.primitives import serialization

from moto_server import store
from service import ACCOUNT, OTHER_ACCOUNT, REGION
from workplace import NODE, TESTS, need

PLAIN = b"what the program keeps" * 100
CONTEXT = {"tenant": "7", "purpose": "archive"}
# Keyrings of asymmetric keys take no suite that signs messages.
UNSIGNED = {"algorithm": Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY}

providers = AwsCryptographicMaterialProviders(MaterialProvidersConfig())
sdk = aws_encryption_sdk.EncryptionSDKClient()


def kms_keyring(key, kms):
    return providers.create_aws_kms_keyring(CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=kms))


def discovery_keyring(kms, account=ACCOUNT):
    only = DiscoveryFilter(account_ids=[account], partition="aws")
    return providers.create_aws_kms_discovery_keyring(CreateAwsKmsDiscoveryKeyringInput(kms_client=kms, discovery_filter=only))


def encrypt(keyring, **more):
    return sdk.encrypt(source=PLAIN, keyring=keyring, encryption_context=CONTEXT, **more)[0]


def decrypt(message, keyring):
    plain, header = sdk.decrypt(source=message, keyring=keyring)
    assert CONTEXT.items() <= header.encryption_context.items()
    return plain


def sentences(error):
    """The SDK puts what each data key's KMS call said into errors in errors; of a code without a sentence it keeps nothing."""
    for part in [*error.args, *getattr(error, "list", []), getattr(error, "message", "")]:
        if isinstance(part, Exception):
            yield from sentences(part)
        else:
            yield str(part)


def fails(why, call, *arguments):
    with pytest.raises((AWSEncryptionSDKClientError, ServiceError)) as failed:
        call(*arguments)
    said = " ".join(sentences(failed.value))
    assert why in said, said


def test_a_message_is_sealed_with_its_context(workplace):
    key = workplace.key()
    message = encrypt(kms_keyring(key, workplace.kms()))
    assert PLAIN[:22] not in message
    assert decrypt(message, kms_keyring(key, workplace.kms())) == PLAIN
    assert decrypt(message, discovery_keyring(workplace.kms())) == PLAIN

    # The context stands in the open in the message: whoever changes it is refused by KMS.
    changed = message.replace(b"archive", b"archiv3")
    fails("", decrypt, changed, kms_keyring(key, workplace.kms()))
    fails("AccessDeniedException", decrypt, message, kms_keyring(key, workplace.kms("visitor")))
    # Neither of these asks KMS: the message is not of this key, or not of that account.
    fails("", decrypt, message, kms_keyring(workplace.key(), workplace.kms()))
    fails("", decrypt, message, discovery_keyring(workplace.kms(), OTHER_ACCOUNT))
    fails("AccessDeniedException", encrypt, kms_keyring(key, workplace.kms("visitor")))

    rows = workplace.events(key, "event_name, error_code, enc_context, principal_arn")
    told = [(row["event_name"], row.get("error_code")) for row in rows[1:]]
    assert told == [
        ("GenerateDataKey", None),
        ("Decrypt", None),
        ("Decrypt", None),
        ("Decrypt", "InvalidCiphertextException"),
        ("Decrypt", "AccessDenied"),
        ("GenerateDataKey", "AccessDenied"),
    ]
    assert json.loads(rows[1]["enc_context"]).items() >= CONTEXT.items()
    assert json.loads(rows[4]["enc_context"])["purpose"] == "archiv3"
    assert rows[1]["principal_arn"].endswith(":assumed-role/worker/python")


def test_the_sdk_for_javascript_reads_it_and_writes_it(workplace):
    need("node")
    key = workplace.key()

    def node(verb, message, role="worker", key=key):
        command, roles = [*NODE, TESTS / "node/encryption.js", verb], workplace.roles
        return workplace.program(command, KEY=key, ROLE=roles[role], TENANT="7", MESSAGE=message.hex())

    ours = encrypt(kms_keyring(key, workplace.kms()))
    told = node("open", ours)
    assert told == {"tenant": "7", "opened": PLAIN.hex()}
    theirs = bytes.fromhex(node("seal", PLAIN)["sealed"])
    assert sdk.decrypt(source=theirs, keyring=kms_keyring(key, workplace.kms()))[0] == PLAIN
    assert "AccessDeniedException" in node("open", ours, "visitor")["error"]
    assert "InvalidCiphertext" in node("open", ours.replace(b"archive", b"archiv3"))["error"]
    assert "not authorized to perform: kms:GenerateDataKey" in node("seal", PLAIN, "visitor")["error"]
    errors = [row.get("error_code") for row in workplace.events(key)]
    assert errors == [None] * 5 + ["AccessDenied", "InvalidCiphertextException", "AccessDenied"]


def test_programs_from_before_keyrings_still_read(tls_workplace, monkeypatch):
    """Master key providers make their KMS clients themselves, from the environment."""
    key = tls_workplace.key()
    for name, value in tls_workplace.environment(AWS_DEFAULT_REGION=REGION).items():
        monkeypatch.setenv(name, value)

    def provider(role, make, **more):
        session = botocore.session.Session()
        session.set_credentials(*tls_workplace.session(role).values())
        return make(botocore_session=session, **more)

    def strict(role):
        return provider(role, aws_encryption_sdk.StrictAwsKmsMasterKeyProvider, key_ids=[key])

    message = sdk.encrypt(source=PLAIN, key_provider=strict("worker"), encryption_context=CONTEXT)[0]
    discovery = provider("worker", aws_encryption_sdk.DiscoveryAwsKmsMasterKeyProvider)
    for source in (message, encrypt(kms_keyring(key, tls_workplace.kms()))):
        for reader in (strict("worker"), discovery):
            assert sdk.decrypt(source=source, key_provider=reader)[0] == PLAIN
    assert decrypt(message, kms_keyring(key, tls_workplace.kms())) == PLAIN
    with pytest.raises(DecryptKeyError):
        sdk.decrypt(source=message.replace(b"archive", b"archiv3"), key_provider=strict("worker"))
    with pytest.raises(GenerateKeyError):
        sdk.encrypt(source=PLAIN, key_provider=strict("visitor"))
    errors = [row["error_code"] for row in tls_workplace.events(key) if row.get("error_code")]
    assert errors == ["InvalidCiphertextException", "AccessDenied"]


def test_each_of_two_keys_opens_a_message(tls_workplace):
    first, second = tls_workplace.key(), tls_workplace.key()
    kms = tls_workplace.kms()
    both = CreateMultiKeyringInput(generator=kms_keyring(first, kms), child_keyrings=[kms_keyring(second, kms)])
    message = encrypt(providers.create_multi_keyring(both))
    for key in (first, second):
        assert decrypt(message, kms_keyring(key, kms)) == PLAIN
    assert [row["event_name"] for row in tls_workplace.events(second)] == ["CreateKey", "Encrypt", "Decrypt"]
    tls_workplace.admin.disable_key(KeyId=first)
    fails("disabled", decrypt, message, kms_keyring(first, kms))
    assert decrypt(message, kms_keyring(second, kms)) == PLAIN
    assert tls_workplace.events(first)[-1] == {"event_name": "Decrypt", "error_code": "DisabledException"}


def test_the_keyring_for_keys_of_many_regions_takes_a_key_of_one(tls_workplace):
    key = tls_workplace.key()
    keyring = providers.create_aws_kms_mrk_keyring(CreateAwsKmsMrkKeyringInput(kms_key_id=key, kms_client=tls_workplace.kms()))
    assert decrypt(encrypt(keyring), keyring) == PLAIN


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_rsa_seals_without_kms_and_opens_with_it(tls_workplace, algorithm):
    key = tls_workplace.key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    public = serialization.load_der_public_key(tls_workplace.kms().get_public_key(KeyId=key)["PublicKey"])
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def keyring(role):
        kms = tls_workplace.kms(role)
        wanted = CreateAwsKmsRsaKeyringInput(kms_key_id=key, encryption_algorithm=algorithm, public_key=pem, kms_client=kms)
        return providers.create_aws_kms_rsa_keyring(wanted)

    message = encrypt(keyring("worker"), **UNSIGNED)
    assert decrypt(message, keyring("worker")) == PLAIN
    fails("", decrypt, message.replace(b"archive", b"archiv3"), keyring("worker"))
    fails("AccessDeniedException", decrypt, message, keyring("visitor"))
    told = [(row["event_name"], row.get("error_code")) for row in tls_workplace.events(key)]
    # The keyring seals the context with the data key and compares it itself: KMS opens the third message.
    assert told[1:] == [("GetPublicKey", None), ("Decrypt", None), ("Decrypt", None), ("Decrypt", "AccessDenied")]


def test_two_parties_agree_on_a_key(tls_workplace):
    sender = tls_workplace.key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    recipient = tls_workplace.key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    public = [tls_workplace.kms().get_public_key(KeyId=key)["PublicKey"] for key in (sender, recipient)]

    def keyring(scheme, role="worker"):
        kms = tls_workplace.kms(role)
        wanted = CreateAwsKmsEcdhKeyringInput(key_agreement_scheme=scheme, curve_spec="ECC_NIST_P256", kms_client=kms)
        return providers.create_aws_kms_ecdh_keyring(wanted)

    pair = KmsPrivateKeyToStaticPublicKeyInput(
        sender_kms_identifier=sender, sender_public_key=public[0], recipient_public_key=public[1]
    )
    sending = KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey(pair)
    found = KmsPublicKeyDiscoveryInput(recipient_kms_identifier=recipient)
    receiving = KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery(found)
    message = encrypt(keyring(sending), **UNSIGNED)
    assert decrypt(message, keyring(receiving)) == PLAIN
    assert decrypt(message, keyring(sending)) == PLAIN
    fails("", decrypt, message.replace(b"archive", b"archiv3"), keyring(sending))
    # The keyring looks up the recipient's public key when it is made.
    fails("AccessDeniedException", keyring, receiving, "visitor")
    names = {row["event_name"] for row in tls_workplace.events(recipient) if not row.get("error_code")}
    assert names == {"CreateKey", "GetPublicKey", "DeriveSharedSecret"}


def test_branch_keys_live_in_dynamodb_under_a_key_of_ours(tls_workplace, moto):
    key = tls_workplace.key()

    def branches(role):
        return KeyStore(
            KeyStoreConfig(
                ddb_client=store(moto, "dynamodb"),
                ddb_table_name="branch-keys",
                logical_key_store_name="branch-keys",
                kms_configuration=KMSConfigurationKmsKeyArn(key),
                kms_client=tls_workplace.kms(role),
            )
        )

    def keyring(branch, role="worker"):
        wanted = CreateAwsKmsHierarchicalKeyringInput(key_store=branches(role), branch_key_id=branch, ttl_seconds=60)
        return providers.create_aws_kms_hierarchical_keyring(wanted)

    branches("worker").create_key_store(CreateKeyStoreInput())
    branch = branches("worker").create_key(CreateKeyInput()).branch_key_identifier
    message = encrypt(keyring(branch))
    assert decrypt(message, keyring(branch)) == PLAIN
    branches("worker").version_key(VersionKeyInput(branch_key_identifier=branch))
    assert decrypt(message, keyring(branch)) == PLAIN
    fails("AccessDenied", decrypt, message, keyring(branch, "visitor"))
    rows = tls_workplace.events(key, "event_name, error_code, enc_context")
    assert {row["event_name"] for row in rows[1:]} == {"GenerateDataKeyWithoutPlaintext", "ReEncrypt", "Decrypt"}
    assert rows[-1]["error_code"] == "AccessDenied"
    assert json.loads(rows[-1]["enc_context"])["branch-key-id"] == branch
