"""What keeps a log honest over years: witnesses over TLS, another signing key, a declared gap, an index of a cluster's logs."""

import shutil
import subprocess

import pytest

from authority import Authority
from service import KEYTRAIL, Service, run, wait_for


@pytest.fixture
def witness(tmp_path):
    """Starts `keytrail witness` on a log, with these flags; gives its address and vkey."""
    running = []

    def start(log, *flags):
        folder = tmp_path / f"witness-{len(running)}"
        command = [KEYTRAIL, "witness", "--dir", folder, "--log", log, "--listen", "127.0.0.1:0", *flags]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        running.append(process)
        line = next(line for line in process.stdout if line.startswith("ready "))
        fields = dict(word.split("=", 1) for word in line.split()[1:])
        return fields["witness"], (folder / "vkey").read_text().strip()

    yield start
    for process in running:
        process.terminate()
        assert process.wait(timeout=60) == 0
        process.stdout.close()


def verify(folder, *flags):
    done = run(KEYTRAIL, "verify", folder, *flags, check=False)
    return done.returncode, done.stdout.splitlines()


def test_a_witness_over_tls_is_asked_under_its_authority_only(tmp_path, witness):
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    authority.make("server")
    service = Service(tmp_path / "data").init()
    address, vkey = witness(service.folder / "checkpoints" / "vkey", *authority.flags("server"))
    assert address.startswith("https://")
    policy = tmp_path / "policy"
    policy.write_text(f"witness w {vkey} {address}\nquorum w\n")
    config = service.folder / "keytrail.toml"
    cosigned = service.folder / "checkpoints" / "cosigned"
    text = config.read_text()

    def quorum(ca):
        config.write_text(f'{text}\n[quorum]\npolicy_file = "{policy}"\nca_file = "{ca}"\n')

    quorum(stranger.pem)
    with service:
        service.client().create_key()
    assert verify(service.folder, "--policy", policy)[0] == 2 and not cosigned.exists()
    quorum(authority.pem)
    with service:
        service.client().create_key()
        wait_for("a cosigned checkpoint", cosigned.exists)
    assert verify(service.folder, "--policy", policy)[0] == 0


def test_whoever_has_the_old_key_follows_to_the_new_one(tmp_path):
    service, old = Service(tmp_path / "data").init(), tmp_path / "old"
    with service:
        service.client().create_key()
    vkey = service.folder / "checkpoints" / "vkey"
    shutil.copy(vkey, old)
    run(KEYTRAIL, "signer", "rotate", "--data", service.folder)
    assert vkey.read_text() != old.read_text()
    with service:
        key = service.client().create_key()["KeyMetadata"]["Arn"]
        # The trail, too, and the responder behind it.
        service.client().disable_key(KeyId=key)
        wait_for("the alert", lambda: service.sql("SELECT alert_id FROM alerts"))
    code, told = verify(service.folder, "--vkey", old)
    assert code == 0 and any(vkey.read_text().strip() in line and "from seq" in line for line in told)
    other = Service(tmp_path / "other").init()
    assert verify(service.folder, "--vkey", other.folder / "checkpoints" / "vkey")[0] == 1


def test_two_operators_get_a_node_past_a_rollback_and_the_index_names_what_ended(tmp_path):
    service, other = Service(tmp_path / "data").init("--cluster", "c"), Service(tmp_path / "other").init("--cluster", "c")
    operators = []
    for name in ["alice", "bob"]:
        printed = run(KEYTRAIL, "gap", "key", "--dir", tmp_path / name, "--name", name).stdout
        operators.append(printed.split()[-1])
    allowed = tmp_path / "operators"
    allowed.write_text("\n".join(operators))
    config = service.folder / "keytrail.toml"
    config.write_text(config.read_text() + f'\n[recovery]\noperators_file = "{allowed}"\n')
    for node in [service, other]:
        with node:
            node.client().create_key()
    nodes = ["--node", service.folder, other.folder]
    index = tmp_path / "index"
    run(KEYTRAIL, "log", "index", "update", index, "--key", tmp_path / "alice", *nodes)
    check = [KEYTRAIL, "log", "index", "check", index, "--vkey", tmp_path / "alice" / "vkey"]
    assert run(*check, *nodes).stdout.count(": ok") == 2
    done = run(*check, "--node", service.folder, check=False)
    assert done.returncode == 1 and "is missing" in done.stdout

    before = tmp_path / "before"
    shutil.copytree(service.folder, before, ignore=shutil.ignore_patterns("run"))
    with service:
        service.client().create_key()
    note = tmp_path / "note"
    shutil.copy(service.folder / "checkpoints" / "latest", note)
    run(KEYTRAIL, "log", "index", "update", index, "--key", tmp_path / "alice", *nodes)
    shutil.rmtree(service.folder)
    before.rename(service.folder)
    assert "has shrunk" in run(*check, *nodes, check=False).stdout

    gap = tmp_path / "gap.json"
    flags = ["--data", service.folder, "--known", note, "--reason", "disk lost", "--out", gap]
    run(KEYTRAIL, "gap", "declare", *flags)
    apply = [KEYTRAIL, "gap", "apply", gap, "--data", service.folder]
    for name in ["alice", "bob"]:
        assert run(*apply, check=False).returncode == 1
        run(KEYTRAIL, "gap", "sign", gap, "--dir", tmp_path / name)
    run(*apply)
    with service:
        service.client().create_key()
        wait_for("the declaration in the lake", lambda: service.sql("SELECT seq FROM records WHERE kind = 8"))
    code, told = verify(service.folder, "--operators", allowed)
    assert code == 2 and told[0] == "VERIFIED, but for a declared gap before it", told
    assert any("disk lost" in line for line in told)
    [former] = (service.folder / "former").iterdir()
    assert verify(former)[0] == 0
    assert "is missing" in run(*check, *nodes, check=False).stdout
    ended = next(line.split()[1] for line in told if line.startswith("gap "))
    run(KEYTRAIL, "log", "index", "update", index, "--key", tmp_path / "alice", *nodes, "--retire", ended)
    assert run(*check, *nodes).returncode == 0
