"""An `omni serve` for tests, on a free port of loopback, and what a test says when it cannot run."""
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            skip(f"there is no {program} here (scripts/setup --e2e installs what these tests need)")


def wait_for(what, why, seconds=180):
    """What `what` gives once it is true."""
    until = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, f"waited in vain for {why}"
        time.sleep(0.2)


class OmniServe:
    def __init__(self, omni, model, *flags):
        self.omni, self.model, self.flags, self.port = omni, model, flags, 0
        self.folder = tempfile.TemporaryDirectory()
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.omni, "serve", "-m", self.model, "--listen", f"127.0.0.1:{self.port}", "-t", "2",
             *self.flags],
            env={**os.environ, "XDG_STATE_HOME": self.folder.name},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.said("listening on")
        self.port = int(self.address.split(":")[1])
        self.grpc = self.said("gRPC at")

    def said(self, what):
        line = self.process.stdout.readline()
        found = re.fullmatch(what + r" (127\.0\.0\.1:\d+)\n", line)
        if not found:
            raise RuntimeError(f"omni serve says {line!r}")
        return found[1]

    def restart(self):
        self.kill()
        self.start()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    # Ends it as people do; returns its exit code.
    def end(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        return code

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self.folder.cleanup()
