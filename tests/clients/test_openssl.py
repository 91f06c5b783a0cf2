"""The service against OpenSSL's command line: signatures, encryption and key agreement, both ways.

test_keys.py asks the same of Python's `cryptography`; here OpenSSL makes, writes and reads the keys as well.
"""

import hashlib
import subprocess

import pytest

from test_boto3 import refused
from test_keys import make, parcel

MESSAGE = b"what is signed"
CURVES = {"ECC_NIST_P256": "P-256", "ECC_NIST_P384": "P-384", "ECC_NIST_P521": "P-521", "ECC_SECG_P256K1": "secp256k1"}
RSA = ["RSA_2048", "RSA_3072", "RSA_4096"]


class Openssl:
    """Runs `openssl` in a folder of its own; files are named by what they hold."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *arguments, ok=True):
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, timeout=60)
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout

    def put(self, name, data):
        (self.folder / name).write_bytes(data)

    def get(self, name):
        return (self.folder / name).read_bytes()

    def generate(self, *options):
        """A new private key; its PKCS#8 as DER."""
        self.run("genpkey", *options, "-outform", "DER", "-out", "private.der")
        self.run("pkey", "-inform", "DER", "-in", "private.der", "-pubout", "-outform", "DER", "-out", "public.der")
        return self.run("pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-in", "private.der", "-outform", "DER")


@pytest.fixture
def openssl(tmp_path):
    openssl = Openssl(tmp_path)
    openssl.put("message", MESSAGE)
    return openssl


def options(algorithm):
    """How OpenSSL is told of an algorithm of KMS."""
    if algorithm == "ED25519_SHA_512":
        return ["-rawin"]
    bits = algorithm[-3:]
    chosen = ["-rawin", "-digest", f"sha{bits}"]
    if "PSS" in algorithm:
        chosen += ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]
    return chosen


@pytest.mark.parametrize("spec", [*RSA, *CURVES, "ECC_NIST_EDWARDS25519"])
def test_openssl_verifies_what_is_signed(kms, openssl, spec):
    key = make(kms, spec, "SIGN_VERIFY")
    openssl.put("public.der", kms.get_public_key(KeyId=key["KeyId"])["PublicKey"])
    verify = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "public.der", "-sigfile", "signature"]
    for algorithm in key["SigningAlgorithms"]:
        signed = kms.sign(KeyId=key["KeyId"], Message=MESSAGE, SigningAlgorithm=algorithm)["Signature"]
        openssl.put("signature", signed)
        openssl.run(*verify, "-in", "message", *options(algorithm))
        openssl.put("signature", signed[:-1] + bytes([signed[-1] ^ 1]))
        openssl.run(*verify, "-in", "message", *options(algorithm), ok=False)


@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096", *CURVES, "ECC_NIST_EDWARDS25519"])
def test_what_openssl_signs_is_verified_by_the_imported_key(kms, openssl, spec):
    if spec in CURVES:
        material = openssl.generate("-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{CURVES[spec]}")
    elif spec in RSA:
        material = openssl.generate("-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{spec[-4:]}")
    else:
        material = openssl.generate("-algorithm", "ED25519")
    key = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")["KeyMetadata"]
    body = parcel(kms, key["KeyId"], "RSA_AES_KEY_WRAP_SHA_256", material)
    kms.import_key_material(ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE", **body)
    assert kms.get_public_key(KeyId=key["KeyId"])["PublicKey"] == openssl.get("public.der")
    for algorithm in key["SigningAlgorithms"]:
        sign = ["pkeyutl", "-sign", "-keyform", "DER", "-inkey", "private.der", "-in", "message", "-out", "signature"]
        openssl.run(*sign, *options(algorithm))
        arguments = {"KeyId": key["KeyId"], "SigningAlgorithm": algorithm, "Signature": openssl.get("signature")}
        assert kms.verify(Message=MESSAGE, **arguments)["SignatureValid"] is True
        with refused("KMSInvalidSignatureException"):
            kms.verify(Message=MESSAGE + b"!", **arguments)
        if algorithm != "ED25519_SHA_512":
            digest = hashlib.new(f"sha{algorithm[-3:]}", MESSAGE).digest()
            assert kms.verify(Message=digest, MessageType="DIGEST", **arguments)["SignatureValid"] is True


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"])
def test_openssl_derives_the_same_secret(kms, openssl, spec):
    key = make(kms, spec, "KEY_AGREEMENT")["KeyId"]
    openssl.generate("-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{CURVES[spec]}")
    peer = openssl.get("public.der")
    derived = kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=peer)
    openssl.put("ours.der", kms.get_public_key(KeyId=key)["PublicKey"])
    sides = ["-keyform", "DER", "-inkey", "private.der", "-peerform", "DER", "-peerkey", "ours.der"]
    assert openssl.run("pkeyutl", "-derive", *sides) == derived["SharedSecret"]
    # The same curve, written out in parameters instead of named: no form that RFC 5480 or KMS has.
    written_out = ["-param_enc", "explicit", "-pubout", "-outform", "DER"]
    explicit = openssl.run("ec", "-inform", "DER", "-in", "private.der", *written_out)
    with refused("ValidationException"):
        kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=explicit)


@pytest.mark.parametrize("spec", RSA)
@pytest.mark.parametrize("bits", ["1", "256"])
def test_what_openssl_encrypts_is_decrypted(kms, openssl, spec, bits):
    key = make(kms, spec, "ENCRYPT_DECRYPT")["KeyId"]
    openssl.put("public.der", kms.get_public_key(KeyId=key)["PublicKey"])
    padding = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:sha{bits}", "-pkeyopt", f"rsa_mgf1_md:sha{bits}"]
    encrypt = ["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "public.der", "-in", "message"]
    blob = openssl.run(*encrypt, *padding)
    arguments = {"KeyId": key, "CiphertextBlob": blob}
    opened = kms.decrypt(EncryptionAlgorithm=f"RSAES_OAEP_SHA_{bits}", **arguments)
    assert opened["Plaintext"] == MESSAGE
    other = "RSAES_OAEP_SHA_1" if bits == "256" else "RSAES_OAEP_SHA_256"
    with refused("InvalidCiphertextException"):
        kms.decrypt(EncryptionAlgorithm=other, **arguments)
