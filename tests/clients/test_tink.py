"""Tink: its AEAD over a KMS key, and a keyset of its own that such a key seals."""

import binascii
import io

import pytest
import tink
from tink import aead
from tink.integration import awskms


@pytest.fixture(autouse=True, scope="module")
def registered():
    aead.register()


def sealer(workplace, key, role="worker"):
    client = awskms.new_client(boto3_client=workplace.kms(role), key_uri=f"aws-kms://{key}")
    return client.get_aead(f"aws-kms://{key}")


def test_associated_data_is_the_context(tls_workplace):
    key = tls_workplace.key()
    ours = sealer(tls_workplace, key)
    sealed = ours.encrypt(b"a secret", b"row 7")
    assert ours.decrypt(sealed, b"row 7") == b"a secret"
    with pytest.raises(tink.TinkError, match="InvalidCiphertextException"):
        ours.decrypt(sealed, b"row 8")
    with pytest.raises(tink.TinkError, match="AccessDeniedException"):
        sealer(tls_workplace, key, "visitor").decrypt(sealed, b"row 7")
    rows = tls_workplace.events(key, "event_name, error_code, enc_context")
    assert rows[1]["enc_context"] == f'{{"associatedData":"{binascii.hexlify(b"row 7").decode()}"}}'
    assert [row.get("error_code") for row in rows] == [None, None, None, "InvalidCiphertextException", "AccessDenied"]


def test_a_keyset_is_kept_under_a_key(tls_workplace):
    key = tls_workplace.key()
    keyset, kept = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM), io.BytesIO()
    keyset.write_with_associated_data(tink.BinaryKeysetWriter(kept), sealer(tls_workplace, key), b"keyset 1")
    sealed = keyset.primitive(aead.Aead).encrypt(b"a row", b"")

    def read(associated, role="worker"):
        reader = tink.BinaryKeysetReader(kept.getvalue())
        return tink.read_keyset_handle_with_associated_data(reader, sealer(tls_workplace, key, role), associated)

    assert read(b"keyset 1").primitive(aead.Aead).decrypt(sealed, b"") == b"a row"
    with pytest.raises(tink.TinkError):
        read(b"keyset 2")
    with pytest.raises(tink.TinkError):
        read(b"keyset 1", "visitor")


def test_an_envelope_has_a_data_key_for_each_text(tls_workplace):
    key = tls_workplace.key()
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, sealer(tls_workplace, key))
    sealed = envelope.encrypt(b"long" * 10_000, b"file 1")
    assert envelope.decrypt(sealed, b"file 1") == b"long" * 10_000
    # The associated data binds the text here, not the data key: KMS opens that, and Tink refuses.
    with pytest.raises(tink.TinkError):
        envelope.decrypt(sealed, b"file 2")
    assert [row["event_name"] for row in tls_workplace.events(key)][1:] == ["Encrypt", "Decrypt", "Decrypt"]
