"""The statement of a pack as PDF, by the real typst compiler, and as a page that shows a hostile name as a name."""

import hashlib
import json
import os
import subprocess
import sys

import pypdf

from service import KEYTRAIL

HOSTILE = '<script>x</script>"#read("/etc/passwd")'

# What `keytrail evidence export` runs; the compiler itself is in the package.
PROGRAM = f"""#!{sys.executable}
import sys, typst
command, option, root, source, output = sys.argv[1:]
assert (command, option) == ("compile", "--root")
typst.compile(source, output=output, root=root)
"""


def export(folder, pack, path):
    command = [KEYTRAIL, "evidence", "export", "--data", folder, "--from", "2020-01-01", "--to", "2100-01-01"]
    command += ["--control-set", "soc2", "--redact", "user_name = 'nobody'", "--reason", HOSTILE, "--out", pack]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, json.loads((pack / "data/manifest.json").read_text())["files"]


def test_a_pdf_where_typst_is_and_a_page_everywhere(own_service, tmp_path):
    with own_service as service:
        kms = service.client()
        kms.create_key(Description="statement")
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "typst"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    pack = tmp_path / "pack"
    said_out, said, files = export(service.folder, pack, f"{programs}:/usr/bin:/bin")
    pdf = (pack / "data/statement.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and "statement.pdf" not in said
    assert files["statement.pdf"]["sha256"] == hashlib.sha256(pdf).hexdigest()
    # The first page is the summary, and every page can be told from others of the same pack.
    read = pypdf.PdfReader(pack / "data/statement.pdf")
    # Long words may be broken at marks that have no width.
    pages = [" ".join(page.extract_text().replace("\u200b", "").split()) for page in read.pages]
    manifest = json.loads((pack / "data/manifest.json").read_text())
    assert len(pages) >= 2 and pages[0].startswith("Statement of evidence")
    for told in ("SOC 2", "2020-01-01", "2100-01-01"):
        assert told in pages[0], (told, pages[0])
    whole = " ".join(pages)
    assert manifest["logs"][0]["root"] in whole.replace(" ", "") and HOSTILE.split('"')[0] in whole
    assert "in the log, seq" in said_out and "is itself an event of the log" in whole
    page = (pack / "data/statement.html").read_text()
    assert "&lt;script&gt;x&lt;/script&gt;" in page and "<script" not in page

    without = tmp_path / "without"
    _, said, files = export(service.folder, without, str(tmp_path))
    assert "no statement.pdf was made" in said
    assert "statement.pdf" not in files and {"statement.html", "statement.typ"} <= set(files)
    # A program that fails leaves nothing behind.
    program.write_text("#!/bin/sh\necho half > \"$5\"\nexit 1\n")
    _, said, files = export(service.folder, tmp_path / "failed", f"{programs}:/usr/bin:/bin")
    assert "no statement.pdf was made" in said and "statement.pdf" not in files
