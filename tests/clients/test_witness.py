"""Other people's witness beside our own: litewitness (filippo.io/torchwood) cosigns our log, and a policy wants both."""

import re
import socket
import sqlite3
import subprocess

import pytest

from service import KEYTRAIL, Service, run, wait_for
from workplace import INSTALLED, need

LITEWITNESS = INSTALLED / "litewitness/litewitness"
NAME = "witness.example/lite"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def processes():
    started = []
    yield started
    for process in reversed(started):
        process.terminate()
        process.wait()


def start(processes, *command, **options):
    process = subprocess.Popen([str(part) for part in command], text=True, **options)
    processes.append(process)
    return process


def litewitness(processes, folder, log):
    """Its address and key; ssh-agent holds the private half, as its author wants it."""
    folder.mkdir()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    agent, database, port = folder / "agent", folder / "witness.db", free_port()
    start(processes, "ssh-agent", "-D", "-a", agent, stdout=subprocess.DEVNULL)
    wait_for("ssh-agent", agent.exists)
    run("ssh-add", "-q", folder / "key", env={"SSH_AUTH_SOCK": str(agent), "PATH": "/usr/bin:/bin"})
    fingerprint = run("ssh-keygen", "-lf", folder / "key.pub").stdout.split()[1]
    messages = folder / "messages"
    with open(messages, "w", encoding="utf-8") as out:
        command = [LITEWITNESS, "-name", NAME, "-db", database, "-ssh-agent", agent, "-key", fingerprint]
        start(processes, *command, "-listen", f"127.0.0.1:{port}", stderr=out)
    vkey = wait_for("its key", lambda: re.search(r"vkey=\"?([^\s\"]+)", messages.read_text()))[1]
    # What its witnessctl does: the empty log, and its key.
    with sqlite3.connect(database) as connection:
        empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        connection.execute("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", (log.split("+")[0], empty))
        connection.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (log.split("+")[0], log))
    connection.close()
    return f"http://127.0.0.1:{port}", vkey


def own_witness(processes, folder, vkey_file):
    command = [KEYTRAIL, "witness", "--dir", folder, "--listen", "127.0.0.1:0", "--log", vkey_file]
    process = start(processes, *command, stdout=subprocess.PIPE)
    fields = dict(word.split("=", 1) for word in process.stdout.readline().split()[1:])
    return fields["witness"], fields["vkey"]


def test_two_kinds_of_witness_cosign_one_checkpoint(tmp_path, processes):
    need("go")
    service = Service(tmp_path / "data").init()
    vkey_file = service.folder / "checkpoints/vkey"
    log = vkey_file.read_text().strip()
    address, vkey = litewitness(processes, tmp_path / "lite", log)
    own_address, own_vkey = own_witness(processes, tmp_path / "own", vkey_file)
    policy = tmp_path / "policy"
    lines = [f"log {log}", f"witness lite {vkey} {address}", f"witness own {own_vkey} {own_address}"]
    policy.write_text("\n".join([*lines, "group both all lite own", "quorum both", ""]))
    with open(service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write(f'\n[quorum]\npolicy_file = "{policy}"\nwait_for = ["ScheduleKeyDeletion"]\nwait_bound = "20s"\n')
    with service:
        kms = service.client()
        for _ in range(300):
            kms.generate_random(NumberOfBytes=1)
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        # Answered only when both have cosigned a checkpoint over it, across a full tile of the tree.
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        kms.cancel_key_deletion(KeyId=key)
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    done = run(KEYTRAIL, "verify", service.folder, "--policy", policy, check=False)
    assert done.returncode == 0 and done.stdout.startswith("VERIFIED\n"), done.stdout + done.stderr
    assert "lite at 20" in done.stdout and "own at 20" in done.stdout
