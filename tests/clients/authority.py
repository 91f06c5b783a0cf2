"""A certificate authority for tests: makes certificates for this machine, and puts them in place as an administrator would."""

import datetime
import ipaddress
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Makes certificates; `folder/NAME.pem` and `folder/NAME.key`."""

    def __init__(self, folder, name="authority"):
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = folder / f"{name}.pem"
        certificate = self.signed(self.name, self.key.public_key(), x509.BasicConstraints(True, 0))
        self.pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def signed(self, subject, public_key, constraints, names=None):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(constraints, critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def make(self, name, host=None):
        """A certificate for this machine or another host, put in place as an administrator would: written beside, then renamed."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        names = [x509.DNSName(host)] if host else names
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self.signed(subject, key.public_key(), x509.BasicConstraints(False, None), names)
        pkcs8 = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        put(self.folder / f"{name}.key", key.private_bytes(serialization.Encoding.PEM, *pkcs8), 0o600)
        put(self.folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return certificate

    def flags(self, name):
        return ["--tls-cert", self.folder / f"{name}.pem", "--tls-key", self.folder / f"{name}.key"]


def put(path, content, mode):
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    os.replace(fresh, path)
