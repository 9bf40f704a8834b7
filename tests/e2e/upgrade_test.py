#!/usr/bin/env python3
"""A swarm that is upgraded node by node, and taken back, while clients stream: two nodes, then their coordinator, each
drained or ended as one does it, and started as the other version. No token is lost or different.
usage: upgrade_test.py OMNI MODEL
OMNI_FORMER may name the program of the version before; without, the one program is both."""
import atexit
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

STREAMS, TOKENS = 4, 1000
TEXTS = ["The sea", "It was a dark night", "The captain looked", "In the garden"]
omni, model = sys.argv[1:]
former = os.environ.get("OMNI_FORMER", omni)


def run(program, *words):
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"omni {' '.join(words[:3])}: {done.stderr}"
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    """A process at an address and with a folder of its own, whatever program it is."""

    def __init__(self, name, folder, join=None):
        self.name, self.address, self.folder, self.join = name, f"127.0.0.1:{free_port()}", folder / name, join
        self.process = None

    def start(self, program):
        if self.join:
            words = ["node", "--listen", self.address, "--join", self.join]
        else:
            # It has few experts, so that nodes are asked.
            words = ["serve", "--listen", "127.0.0.1:0", "--grpc", self.address, "--offer-ram", "1", "--drain", "1s"]
        words = [program, *words, "-m", model, "--name", self.name, "--state", str(self.folder), "-t", "1",
                 "--log-level", "warning"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=open(f"{self.folder}.log", "ab"))
        atexit.register(self.process.kill)
        # An end that nobody wanted is seen at once.
        threading.Thread(target=self.watch, args=(self.process,), daemon=True).start()

    def watch(self, process):
        code = process.wait()
        if code != 0 and process is self.process:
            print(f"{self.name} ended with {code}: {pathlib.Path(f'{self.folder}.log').read_text()[-500:]}", flush=True)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, f"{self.name} ends with {self.process.returncode}"


def wait(what, condition, limit=120):
    until = time.monotonic() + limit
    while True:
        try:
            if condition():
                return
        except AssertionError:
            pass  # nobody answers just now
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.1)


class Clients:
    def __init__(self, coordinator):
        self.coordinator, self.over, self.answers, self.reconnects, self.faults = coordinator, False, 0, 0, []
        self.wanted = [json.loads(run(omni, *self.words(i), "-m", model, "--log-level", "error"))["text"]
                       for i in range(STREAMS)]
        self.begun = [time.monotonic()] * STREAMS
        self.threads = [threading.Thread(target=self.stream, args=(i,), daemon=True) for i in range(STREAMS)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def words(i):
        return ["run", TEXTS[i], "-n", str(TOKENS), "--temp", "0.8" if i % 2 else "0", "--seed", str(i), "--ignore-eos",
                "--json"]

    def stream(self, i):
        # Clients of both versions, too.
        program = former if i < STREAMS // 2 else omni
        while not self.over:
            self.begun[i] = time.monotonic()
            done = subprocess.run([program, *self.words(i), "--cluster", self.coordinator], capture_output=True,
                                  text=True, check=False)
            answer = json.loads(done.stdout) if done.returncode == 0 else {"text": done.stderr, "reconnects": 0}
            self.answers += 1
            self.reconnects += answer["reconnects"]
            if answer["text"] != self.wanted[i]:
                self.faults.append(f"stream {i}: {answer['text'][-200:]!r}")

    def under_way(self):
        return all(time.monotonic() - begun > 0.5 for begun in self.begun)

    def end(self):
        self.over = True
        for thread in self.threads:
            thread.join()


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    coordinator = Node("c", folder)
    nodes = [Node(n, folder, coordinator.address) for n in ("a", "b")]
    place = ["--cluster", coordinator.address]

    def status():
        return json.loads(run(omni, "cluster", "status", "--json", *place))

    def whole():
        now = status()
        up = {n["node"] for n in now["nodes"] if n["state"] == "up"}
        return len(up) == 3 and all(r["owner"] in up and r["shadow"] in up and not r["target"] for r in now["regions"])

    for node in [coordinator, *nodes]:
        node.start(former)
    wait("the swarm is whole", whole)
    clients = Clients(coordinator.address)
    seen = []
    for back, program in enumerate((omni, former)):
        for node in nodes:
            run(omni, "cluster", "drain", node.name, "--wait", "60s", *place)
            node.end()
            node.start(program)
            wait(f"{node.name} is back", lambda: next(
                n for n in status()["nodes"] if n["node"] == node.name)["state"] != "down")
            run(omni, "cluster", "drain", node.name, "--undo", *place)
            wait("the swarm is whole", whole)
            seen.append([(n["node"], n.get("program")) for n in status()["nodes"]])
        wait("all are answered", clients.under_way)
        if not back:
            coordinator.end()
        else:
            coordinator.process, killed = None, coordinator.process  # taken back in haste
            killed.kill()
            killed.wait()
        coordinator.start(program)
        wait("the swarm is whole", whole)
        seen.append([(n["node"], n.get("program")) for n in status()["nodes"]])
    clients.end()
    for node in [*nodes, coordinator]:
        node.end()
    for moment in seen:
        print(" ".join(f"{n}={p or '-'}" for n, p in moment))
    if former != omni:
        # Only the coordinator of this version hears versions, and only from nodes of this version.
        assert dict(seen[2]) == dict.fromkeys("cab", dict(seen[2])["c"]) and dict(seen[2])["c"], seen[2]
    print(f"{clients.answers} answers of {TOKENS} tokens, {clients.reconnects} reconnections, "
          f"{len(clients.faults)} lost or different")
    assert not clients.faults, clients.faults[:3]
    assert clients.answers >= STREAMS and clients.reconnects >= 1, "nothing was shown"
