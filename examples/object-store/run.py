"""Files into a bucket that encrypts by default: whoever stores one names no key and needs no policy of their own.

    run.py put FILE...      stored as archive/FILE
    run.py get NAME         any name, with its bucket, to standard output
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "service"))
from user import ask  # noqa: E402

if __name__ == "__main__":
    verb, *names = sys.argv[1:]
    if verb == "put":
        for name in names:
            path = pathlib.Path(name)
            ask("PUT", f"archive/{path.name}", path.read_bytes())
    else:
        sys.stdout.buffer.write(ask("GET", names[0]))
