"""sops: a file of secrets in a repository, under a key of ours, with and without a role named in it."""

import json

import pytest

from service import ACCOUNT
from workplace import INSTALLED, need

SOPS = INSTALLED / "sops/sops"
PLAIN = {"database": {"user": "app", "password": "correct horse"}}


class Repository:
    def __init__(self, workplace, folder):
        self.workplace, self.folder, self.file = workplace, folder, folder / "secrets.json"
        self.file.write_text(json.dumps(PLAIN))

    def sops(self, *arguments, role=None, check=True):
        """As the developer, or with a role's session."""
        # No key of another kind that whoever runs the tests has.
        environment = {"HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)}
        credentials = self.workplace.session(role) if role else None
        options = {"check": check, "cwd": self.folder, "credentials": credentials}
        return self.workplace.run([SOPS, *arguments, self.file], **options, **environment)

    def seal(self, key, **who):
        self.sops("encrypt", "--in-place", "--kms", key, "--encryption-context", "repository:orders", **who)
        assert "correct horse" not in self.file.read_text() and "password" in self.file.read_text()

    def opened(self, **who):
        return json.loads(self.sops("decrypt", **who).stdout)

    def change(self, what, into):
        text = self.file.read_text()
        assert what in text
        self.file.write_text(text.replace(what, into))

    def fails(self, why, **who):
        done = self.sops("decrypt", check=False, **who)
        assert done.returncode != 0 and done.stdout == "" and why in done.stderr, done.stderr


@pytest.fixture
def repository(tls_workplace, tmp_path):
    need("go")
    return Repository(tls_workplace, tmp_path)


def test_a_session_opens_the_file(repository):
    key = repository.workplace.key()
    repository.seal(key, role="worker")
    assert repository.opened(role="worker") == PLAIN
    repository.fails("AccessDeniedException", role="visitor")
    # A new data key for the same file.
    repository.sops("rotate", "--in-place", role="worker")
    assert repository.opened(role="worker") == PLAIN
    # Whoever moves the file to another repository's context gets nothing.
    repository.change('"orders"', '"payroll"')
    repository.fails("InvalidCiphertextException", role="worker")
    rows = repository.workplace.events(key, "event_name, error_code, enc_context")[1:]
    told = [(row["event_name"], row.get("error_code"), json.loads(row["enc_context"])["repository"]) for row in rows]
    assert told == [
        ("Encrypt", None, "orders"),
        ("Decrypt", None, "orders"),
        ("Decrypt", "AccessDenied", "orders"),
        ("Decrypt", None, "orders"),
        ("Encrypt", None, "orders"),
        ("Decrypt", None, "orders"),
        ("Decrypt", "InvalidCiphertextException", "payroll"),
    ]


def test_the_file_names_the_role_that_opens_it(repository):
    key, roles = repository.workplace.key(), repository.workplace.roles
    repository.seal(f"{key}+{roles['worker']}")
    assert repository.opened() == PLAIN
    repository.change(roles["worker"], roles["visitor"])
    repository.fails("AccessDeniedException")
    rows = repository.workplace.events(key, "event_name, error_code, principal_arn")[1:]
    told = [(row["event_name"], row.get("error_code"), row["principal_arn"].split("/")[1]) for row in rows]
    assert told == [("Encrypt", None, "worker"), ("Decrypt", None, "worker"), ("Decrypt", "AccessDenied", "visitor")]
    assert rows[0]["principal_arn"].startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/sops@")
