"""`keytrail sql` without a statement: the shell on a terminal, as an operator types into it, and statements from stdin."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from service import KEYTRAIL, Service, wait_for

PROMPT = "keytrail> "


class Shell:
    """The command on a terminal of its own."""

    def __init__(self, folder, home):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            environment = os.environ | {"TERM": "xterm", "HOME": str(home), "XDG_STATE_HOME": ""}
            os.execve(KEYTRAIL, ["keytrail", "sql", "--data", str(folder)], environment)
        os.set_blocking(self.terminal, False)
        self.shown = ""
        self.wait(PROMPT)

    def read(self):
        try:
            self.shown += os.read(self.terminal, 65_536).decode()
        except (BlockingIOError, OSError):
            pass
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown).replace("\r", "")

    def wait(self, text):
        """Waits until the terminal shows a text, and gives what it showed up to it since the last time."""
        shown = wait_for(f"{text!r} on the terminal", lambda: text in (shown := self.read()) and shown)
        before, text, self.shown = shown.partition(text)
        return before + text

    def type(self, text):
        os.write(self.terminal, text.encode())

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stopped service's folder with a few calls in it."""
    service = Service(tmp_path_factory.mktemp("shell") / "data").init()
    with service:
        for _ in range(3):
            service.client().create_key()
        wait_for("the calls", lambda: service.sql("SELECT count(*) AS n FROM keys")[0]["n"] == 3)
    return service.folder


def test_the_shell_answers_completes_and_remembers(folder, tmp_path):
    shell = Shell(folder, tmp_path)
    shell.type("SELECT count(*) AS keys\rFROM keys;\r")
    assert re.search(r"keys\n-*\n?\s*3\n\(1 row\)", answer := shell.wait("(1 row)")), answer
    shell.wait(PROMPT)
    shell.type("SELECT event_na\t || '!' AS shout FROM events WHERE event_name = 'CreateKey' LIMIT 1;\r")
    assert "CreateKey!" in shell.wait("(1 row)")
    shell.wait(PROMPT)
    shell.type("\\d key_policies\r")
    assert "previous_policy_sha256" in shell.wait("rows)")
    shell.wait(PROMPT)
    shell.type("SELECT nothing FROM events;\r")
    assert "error: " in shell.wait("No field named nothing")
    shell.wait(PROMPT)
    shell.type("COPY events TO '/tmp/x';\r")
    shell.wait("error: ")
    shell.wait(PROMPT)
    shell.type("\\f jsonl\r")
    shell.wait(PROMPT)
    shell.type("SELECT 1 AS one; SELECT 2 AS two;\r")
    assert '{"one":1}' in (shown := shell.wait('{"two":2}')), shown
    shell.wait(PROMPT)
    shell.type("\x04")
    assert shell.end() == 0
    history = tmp_path / ".local/state/keytrail/sql_history"
    assert "FROM keys;" in history.read_text() and history.stat().st_mode & 0o077 == 0


def test_control_c_stops_a_query_and_not_the_shell(folder, tmp_path):
    shell = Shell(folder, tmp_path)
    endless = "SELECT count(*) FROM records a CROSS JOIN records b CROSS JOIN records c CROSS JOIN records d CROSS JOIN records e"
    shell.type(f"{endless} CROSS JOIN records f CROSS JOIN records g;\r")
    # The line is read once the terminal is handed back to the query: only then is Ctrl-C a signal.
    wait_for("the query to run", lambda: "-icanon" not in terminal_settings(shell))
    shell.type("\x03")
    shell.wait("error: query was cancelled")
    shell.wait(PROMPT)
    shell.type("\\q\r")
    assert shell.end() == 0


def terminal_settings(shell):
    return subprocess.run(["stty", "-a"], stdin=shell.terminal, capture_output=True, text=True, check=True).stdout


def test_statements_from_stdin_run_in_order(folder):
    def run(text):
        command = [KEYTRAIL, "sql", "--data", folder, "--format", "jsonl"]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    done = run("-- how many\nSELECT count(*) AS n FROM keys;\nSELECT ';' AS semicolon;")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"n": 3}, {"semicolon": ";"}]
    failed = run("SELECT 1 AS one; DROP TABLE events; SELECT 2 AS two;")
    assert failed.returncode != 0 and json.loads(failed.stdout) == {"one": 1}
