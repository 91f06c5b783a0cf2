"""Secrets below a team's prefix of one bucket.

    run.py put TEAM/NAME    the secret comes on standard input
    run.py get TEAM/NAME
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "service"))
from user import ask  # noqa: E402

BUCKET = "secrets"

if __name__ == "__main__":
    verb, name = sys.argv[1:]
    if verb == "put":
        ask("PUT", f"{BUCKET}/{name}", sys.stdin.buffer.read())
    else:
        sys.stdout.buffer.write(ask("GET", f"{BUCKET}/{name}"))
