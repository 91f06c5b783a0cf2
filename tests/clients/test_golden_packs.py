"""Packs that released versions made go on verifying, by each later version's verifiers. A pack here is never made anew;
a release adds its own (`keytrail evidence export ... --out keytrail-VERSION.tar`, one of them redacted)."""

import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest
from service import KEYTRAIL

GOLDEN = pathlib.Path(__file__).parent / "golden"
VERIFY_PY = pathlib.Path(__file__).parents[2] / "crates/trail/src/evidence/verify.py"
PACKS = sorted(GOLDEN.glob("*.tar"))


def verdicts(pack):
    key = ["--vkey", str(GOLDEN / "vkey")]
    commands = [[str(KEYTRAIL), "verify", str(pack), *key], [sys.executable, str(VERIFY_PY), str(pack), "--chain", *key]]
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=120) for command in commands]
    return [(run.returncode, run.stdout.split()[0].rstrip(":")) for run in runs]


def test_there_are_packs():
    assert len(PACKS) >= 2


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.stem)
def test_a_kept_pack_is_verified_as_it_was(pack, tmp_path):
    assert verdicts(pack) == [(0, "VERIFIED")] * 2
    with tarfile.open(pack) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert verdicts(folder) == [(0, "VERIFIED")] * 2


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.stem)
def test_a_changed_byte_in_a_kept_pack_is_found(pack, tmp_path):
    with tarfile.open(pack) as tar:
        member = next(member for member in tar if member.name.endswith("leaves.gz"))
        at = member.offset_data + member.size // 2
    copy = shutil.copy(pack, tmp_path / pack.name)
    with open(copy, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    assert verdicts(copy) == [(1, "FAILED")] * 2
