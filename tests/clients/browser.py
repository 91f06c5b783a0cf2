"""Chromium without a window, driven over the two pipes of its DevTools protocol: nothing but Python's library."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

PATIENCE_SECS = 90


class Browser:
    """One page in a browser of its own, which finds no host but `reaches`."""

    def __init__(self, folder, reaches="nobody"):
        if not shutil.which("chromium"):
            assert os.environ.get("CI") != "true", "CI must have Chromium: scripts/setup clients"
            pytest.skip("THE PAGE DID NOT RUN: no Chromium; scripts/setup clients installs it")
        to_browser, from_browser = os.pipe(), os.pipe()

        def plumb():
            # The protocol's pipes are descriptors 3 and 4; both ends may lie where the others belong.
            ends = os.dup(to_browser[0]), os.dup(from_browser[1])
            moved = [os.dup2(end, 50 + at) for at, end in enumerate(ends)]
            os.dup2(moved[0], 3)
            os.dup2(moved[1], 4)

        command = [shutil.which("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-background-networking"]
        command += ["--disable-component-update", f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {reaches}", "about:blank"]
        self.process = subprocess.Popen(
            command, preexec_fn=plumb, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self.out, self.inward = os.fdopen(to_browser[1], "wb", 0), os.fdopen(from_browser[0], "rb", 0)
        self.ids, self.answers, self.events, self.news = itertools.count(1), {}, [], threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()
        self.session = None
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.out.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def listen(self):
        left = b""
        while more := self.inward.read(1 << 16):
            *whole, left = (left + more).split(b"\0")
            with self.news:
                for message in map(json.loads, whole):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.news.notify_all()

    def call(self, method, **parameters):
        number = next(self.ids)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        with self.news:
            assert self.news.wait_for(lambda: number in self.answers, PATIENCE_SECS), f"no answer to {method}"
            answer = self.answers.pop(number)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def open(self, path):
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState == 'complete'")

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script):
        end = time.monotonic() + PATIENCE_SECS
        while not (found := self.evaluate(script)):
            assert time.monotonic() < end, f"gave up waiting for {script}"
            time.sleep(0.05)
        return found

    def choose(self, selector, path):
        """Puts a file or folder into a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, path):
        """Drags a file or folder from outside onto the page."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)

    def requests(self):
        """Addresses that the page has asked for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def picture(self, path):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
