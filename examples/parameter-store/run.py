"""Parameters by path: a deployer writes all of them and reads none, an application reads those below its own path.

    run.py put PATH         the value comes on standard input
    run.py get PATH
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "service"))
from user import ask  # noqa: E402

if __name__ == "__main__":
    verb, path = sys.argv[1:]
    if verb == "put":
        ask("PUT", path, sys.stdin.buffer.read())
    else:
        sys.stdout.buffer.write(ask("GET", path))
