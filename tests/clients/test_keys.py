"""Key specs by boto3: what the service signs, authenticates and agrees on, checked by someone else's cryptography."""

import datetime
import hashlib
import hmac
import secrets

import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from service import wait_for
from test_boto3 import refused

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES = {
    "ECC_NIST_P256": ec.SECP256R1,
    "ECC_NIST_P384": ec.SECP384R1,
    "ECC_NIST_P521": ec.SECP521R1,
    "ECC_SECG_P256K1": ec.SECP256K1,
}


def make(kms, spec, usage):
    return kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]


def public(kms, key):
    return serialization.load_der_public_key(kms.get_public_key(KeyId=key)["PublicKey"])


def check(key, algorithm, signature, message):
    """Raises unless the signature holds, as a stranger without the service would find."""
    hashed = HASHES.get(algorithm[-3:])
    if algorithm.startswith("ECDSA"):
        key.verify(signature, message, ec.ECDSA(hashed))
    elif algorithm.startswith("RSASSA_PSS"):
        salted = padding.PSS(mgf=padding.MGF1(hashed), salt_length=hashed.digest_size)
        key.verify(signature, message, salted, hashed)
    elif algorithm.startswith("RSASSA_PKCS1"):
        key.verify(signature, message, padding.PKCS1v15(), hashed)
    else:
        key.verify(signature, message)


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "ECC_NIST_EDWARDS25519", *CURVES])
def test_signatures_hold_outside(kms, spec):
    key = make(kms, spec, "SIGN_VERIFY")
    outside = public(kms, key["KeyId"])
    for algorithm in key["SigningAlgorithms"]:
        signed = kms.sign(KeyId=key["KeyId"], Message=b"message", SigningAlgorithm=algorithm)
        check(outside, algorithm, signed["Signature"], b"message")
        with pytest.raises(InvalidSignature):
            check(outside, algorithm, signed["Signature"], b"massage")
        arguments = {"KeyId": key["KeyId"], "SigningAlgorithm": algorithm, "Signature": signed["Signature"]}
        assert kms.verify(Message=b"message", **arguments)["SignatureValid"] is True
        with refused("KMSInvalidSignatureException"):
            kms.verify(Message=b"massage", **arguments)
        if algorithm == "ED25519_SHA_512":
            continue
        digest = hashlib.new(f"sha{algorithm[-3:]}", b"message").digest()
        signed = kms.sign(KeyId=key["KeyId"], Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm)
        check(outside, algorithm, signed["Signature"], b"message")
        with refused("ValidationException"):
            kms.sign(KeyId=key["KeyId"], Message=b"short", MessageType="DIGEST", SigningAlgorithm=algorithm)


@pytest.mark.parametrize("spec", ["ML_DSA_44", "ML_DSA_65", "ML_DSA_87"])
def test_lattice_signatures(kms, spec):
    key = make(kms, spec, "SIGN_VERIFY")["KeyId"]
    arguments = {"KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    signature = kms.sign(Message=b"message", **arguments)["Signature"]
    assert len(signature) == {"ML_DSA_44": 2420, "ML_DSA_65": 3309, "ML_DSA_87": 4627}[spec]
    assert kms.verify(Message=b"message", Signature=signature, **arguments)["SignatureValid"] is True
    with refused("KMSInvalidSignatureException"):
        kms.verify(Message=b"massage", Signature=signature, **arguments)


def test_a_signature_made_outside_is_verified(kms):
    """Only with a private key of the service's own making; so a data key pair's, which the service does not keep."""
    symmetric = kms.create_key()["KeyMetadata"]["KeyId"]
    pair = kms.generate_data_key_pair(KeyId=symmetric, KeyPairSpec="ECC_NIST_P256")
    private = serialization.load_der_private_key(pair["PrivateKeyPlaintext"], password=None)
    outside = serialization.load_der_public_key(pair["PublicKey"])
    assert private.public_key().public_numbers() == outside.public_numbers()
    digest = hashlib.sha256(b"message").digest()
    signature = private.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    outside.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    opened = kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])
    assert opened["Plaintext"] == pair["PrivateKeyPlaintext"]
    assert opened["KeyMaterialId"] == pair["KeyMaterialId"]


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_EDWARDS25519", *CURVES])
def test_data_key_pairs_are_real_pairs(kms, key, spec):
    pair = kms.generate_data_key_pair(KeyId=key, KeyPairSpec=spec, EncryptionContext={"a": "b"})
    private = serialization.load_der_private_key(pair["PrivateKeyPlaintext"], password=None)
    der = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    assert private.public_key().public_bytes(*der) == pair["PublicKey"]
    without = kms.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec=spec)
    assert "PrivateKeyPlaintext" not in without
    serialization.load_der_public_key(without["PublicKey"])


@pytest.mark.parametrize("bits", ["224", "256", "384", "512"])
def test_macs(kms, bits):
    key = make(kms, f"HMAC_{bits}", "GENERATE_VERIFY_MAC")
    arguments = {"KeyId": key["KeyId"], "MacAlgorithm": f"HMAC_SHA_{bits}", "Message": b"message"}
    assert key["MacAlgorithms"] == [f"HMAC_SHA_{bits}"]
    mac = kms.generate_mac(**arguments)["Mac"]
    assert len(mac) == int(bits) // 8
    assert kms.verify_mac(Mac=mac, **arguments)["MacValid"] is True
    with refused("KMSInvalidMacException"):
        kms.verify_mac(Mac=hmac.new(b"other", b"message", f"sha{bits}").digest(), **arguments)
    with refused("InvalidKeyUsageException"):
        kms.encrypt(KeyId=key["KeyId"], Plaintext=b"x")


def test_rsa_encryption_with_the_public_half_outside(kms):
    key = make(kms, "RSA_2048", "ENCRYPT_DECRYPT")["KeyId"]
    outside = public(kms, key)
    assert isinstance(outside, rsa.RSAPublicKey) and outside.key_size == 2048
    for algorithm, hashed in (("RSAES_OAEP_SHA_1", hashes.SHA1()), ("RSAES_OAEP_SHA_256", hashes.SHA256())):
        oaep = padding.OAEP(mgf=padding.MGF1(hashed), algorithm=hashed, label=None)
        blob = outside.encrypt(b"secret", oaep)
        assert kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)["Plaintext"] == b"secret"
        blob = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=algorithm)["CiphertextBlob"]
        assert kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)["Plaintext"] == b"secret"
        with refused("InvalidCiphertextException"):
            kms.decrypt(KeyId=key, CiphertextBlob=bytes(256), EncryptionAlgorithm=algorithm)


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"])
def test_both_sides_agree(kms, spec):
    key = make(kms, spec, "KEY_AGREEMENT")["KeyId"]
    ours = ec.generate_private_key(CURVES[spec]())
    der = ours.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    derived = kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=der)
    assert derived["SharedSecret"] == ours.exchange(ec.ECDH(), public(kms, key))
    assert derived["KeyOrigin"] == "AWS_KMS"


def test_re_encryption(service, kms, key):
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"moved", EncryptionContext={"at": "first"})["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext={"at": "first"},
        DestinationKeyId=other,
        DestinationEncryptionContext={"at": "second"},
    )
    assert moved["SourceKeyId"].endswith(key) and moved["KeyId"].endswith(other)
    opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"at": "second"})
    assert opened["Plaintext"] == b"moved"
    with refused("AccessDeniedException"):
        service.client("app").re_encrypt(
            CiphertextBlob=blob, SourceEncryptionContext={"at": "first"}, DestinationKeyId=other
        )


def test_the_rest(service, kms, key):
    assert len(kms.generate_random(NumberOfBytes=24)["Plaintext"]) == 24
    kms.update_key_description(KeyId=key, Description="changed")
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["Description"] == "changed"
    assert kms.list_key_policies(KeyId=key)["PolicyNames"] == ["default"]
    with refused("AccessDeniedException"):
        service.client("nobody").generate_random(NumberOfBytes=8)
    with pytest.raises(ClientError, match="DryRunOperationException"):
        kms.generate_mac(
            KeyId=make(kms, "HMAC_256", "GENERATE_VERIFY_MAC")["KeyId"],
            Message=b"x",
            MacAlgorithm="HMAC_SHA_256",
            DryRun=True,
        )


def test_rotation(service, kms, key):
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=180)
    status = kms.get_key_rotation_status(KeyId=key)
    assert status["KeyRotationEnabled"] is True and status["RotationPeriodInDays"] == 180
    blob = kms.encrypt(KeyId=key, Plaintext=b"before")["CiphertextBlob"]
    before = kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    kms.rotate_key_on_demand(KeyId=key)
    pages = kms.get_paginator("list_key_rotations")
    wait_for("the rotation", lambda: pages.paginate(KeyId=key).build_full_result()["Rotations"])
    current = kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    opened = kms.decrypt(CiphertextBlob=blob)
    assert opened["Plaintext"] == b"before" and opened["KeyMaterialId"] == before != current
    [rotation] = pages.paginate(KeyId=key).build_full_result()["Rotations"]
    assert (rotation["RotationType"], rotation["KeyMaterialId"]) == ("ON_DEMAND", current)
    kms.disable_key_rotation(KeyId=key)
    with refused("UnsupportedOperationException"):
        kms.enable_key_rotation(KeyId=make(kms, "HMAC_256", "GENERATE_VERIFY_MAC")["KeyId"])
    with refused("AccessDeniedException"):
        service.client("nobody").rotate_key_on_demand(KeyId=key)


def parcel(kms, key, algorithm, material):
    """What the owner of the material sends: wrapped with the public half that only the service can undo."""
    given = kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_3072")
    outside = serialization.load_der_public_key(given["PublicKey"])
    hashed = hashes.SHA1() if algorithm.endswith("SHA_1") else hashes.SHA256()
    oaep = padding.OAEP(mgf=padding.MGF1(hashed), algorithm=hashed, label=None)
    if algorithm.startswith("RSAES"):
        wrapped = outside.encrypt(material, oaep)
    else:
        aes = secrets.token_bytes(32)
        wrapped = outside.encrypt(aes, oaep) + aes_key_wrap_with_padding(aes, material)
    return {"KeyId": key, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": wrapped}


WRAPPINGS = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]


@pytest.mark.parametrize("algorithm", WRAPPINGS)
def test_imported_material(kms, algorithm):
    key = kms.create_key(Origin="EXTERNAL", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]
    assert key["KeyState"] == "PendingImport" and key["Enabled"] is False
    key, material = key["KeyId"], secrets.token_bytes(32)
    with refused("KMSInvalidStateException"):
        kms.generate_mac(KeyId=key, Message=b"x", MacAlgorithm="HMAC_SHA_256")
    forever = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    kms.import_key_material(**parcel(kms, key, algorithm, material), **forever)
    mac = kms.generate_mac(KeyId=key, Message=b"x", MacAlgorithm="HMAC_SHA_256")["Mac"]
    assert mac == hmac.new(material, b"x", "sha256").digest()
    kms.delete_imported_key_material(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingImport"
    with refused("IncorrectKeyMaterialException"):
        kms.import_key_material(**parcel(kms, key, algorithm, secrets.token_bytes(32)), **forever)
    kms.import_key_material(**parcel(kms, key, algorithm, material), **forever)
    assert kms.verify_mac(KeyId=key, Message=b"x", Mac=mac, MacAlgorithm="HMAC_SHA_256")["MacValid"] is True


def test_an_imported_private_key_signs_as_outside(kms):
    key = kms.create_key(Origin="EXTERNAL", KeySpec="ECC_SECG_P256K1", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    ours = ec.generate_private_key(ec.SECP256K1())
    material = ours.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)
    kms.import_key_material(**parcel(kms, key, "RSAES_OAEP_SHA_256", material), ValidTo=later)
    metadata = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert metadata["ExpirationModel"] == "KEY_MATERIAL_EXPIRES"
    assert abs(metadata["ValidTo"] - later) < datetime.timedelta(seconds=1)
    digest = hashlib.sha256(b"message").digest()
    signed = kms.sign(KeyId=key, Message=digest, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256")
    ours.public_key().verify(signed["Signature"], b"message", ec.ECDSA(hashes.SHA256()))
    signature = ours.sign(b"message", ec.ECDSA(hashes.SHA256()))
    verified = kms.verify(KeyId=key, Message=b"message", Signature=signature, SigningAlgorithm="ECDSA_SHA_256")
    assert verified["SignatureValid"] is True


def test_a_disabled_key_is_disabled_when_its_material_comes_back(kms):
    key, material = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"], secrets.token_bytes(32)
    forever = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], material), **forever)
    kms.disable_key(KeyId=key)
    with refused("KMSInvalidStateException"):
        kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], material), **forever)
    kms.delete_imported_key_material(KeyId=key)
    everything = {"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
    [away] = kms.list_key_rotations(**everything)["Rotations"]
    assert (away["ImportState"], away["KeyMaterialState"]) == ("PENDING_IMPORT", "CURRENT")
    kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], material), **forever)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    [back] = kms.list_key_rotations(**everything)["Rotations"]
    assert (back["ImportState"], back["KeyMaterialId"]) == ("IMPORTED", away["KeyMaterialId"])
    kms.enable_key(KeyId=key)
    assert kms.encrypt(KeyId=key, Plaintext=b"x")["KeyId"].endswith(key)


def test_several_imported_materials_of_one_key(kms):
    key, materials = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"], [secrets.token_bytes(32) for _ in "ab"]
    forever = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    new = forever | {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "second one"}
    first = kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], materials[0]), **forever)["KeyMaterialId"]
    old = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.rotate_key_on_demand(KeyId=key)
    second = kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], materials[1]), **new)["KeyMaterialId"]
    with pytest.raises(kms.exceptions.KMSInvalidStateException, match=f"another key material .id: {second}. is pending"):
        kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], secrets.token_bytes(32)), **new)

    def listed():
        pages = kms.get_paginator("list_key_rotations").paginate(
            KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", PaginationConfig={"PageSize": 1}
        )
        entries = pages.build_full_result()["Rotations"]
        return [(entry["KeyMaterialId"], entry["KeyMaterialState"], entry["ImportState"]) for entry in entries]

    assert listed() == [(first, "CURRENT", "IMPORTED"), (second, "PENDING_ROTATION", "IMPORTED")]
    kms.rotate_key_on_demand(KeyId=key)
    wait_for("the rotation", lambda: kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == second)
    [rotation] = kms.list_key_rotations(KeyId=key)["Rotations"]
    assert (rotation["RotationType"], rotation["KeyMaterialDescription"]) == ("ON_DEMAND", "second one")
    assert kms.decrypt(CiphertextBlob=old)["KeyMaterialId"] == first

    kms.delete_imported_key_material(KeyId=key, KeyMaterialId=first)
    assert listed() == [(first, "NON_CURRENT", "PENDING_IMPORT"), (second, "CURRENT", "IMPORTED")]
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.encrypt(KeyId=key, Plaintext=b"x")
    existing = forever | {"ImportType": "EXISTING_KEY_MATERIAL", "KeyMaterialId": first}
    with pytest.raises(kms.exceptions.IncorrectKeyMaterialException):
        kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], materials[1]), **existing)
    kms.import_key_material(**parcel(kms, key, WRAPPINGS[1], materials[0]), **existing)
    assert kms.decrypt(CiphertextBlob=old)["Plaintext"] == b"x"


def test_the_last_use_names_its_event(service, kms, key):
    assert "Operation" not in kms.get_key_last_usage(KeyId=key)["KeyLastUsage"]
    used = kms.encrypt(KeyId=key, Plaintext=b"x")["ResponseMetadata"]["RequestId"]
    last = kms.get_key_last_usage(KeyId=key)
    assert last["KeyLastUsage"]["Operation"] == "Encrypt"
    assert last["KeyLastUsage"]["KmsRequestId"] == used
    assert last["TrackingStartDate"] == last["KeyCreationDate"]
    event_id = last["KeyLastUsage"]["CloudTrailEventId"]
    rows = wait_for(
        "the event in the lake",
        lambda: service.sql(f"SELECT event_name, request_id FROM events WHERE event_id = '{event_id}'"),
    )
    assert rows == [{"event_name": "Encrypt", "request_id": used}]
