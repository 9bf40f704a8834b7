#!/usr/bin/env python3
"""What the manager of a service and a container's health check are told: that a server is ready, lives as long as its
actors do, and is about to end; and how a node is emptied before it is stopped. usage: service_test.py OMNI MODEL"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from omni_serve import OmniServe, wait_for

WATCHDOG_S = 2


class Manager:
    def __init__(self, folder):
        self.path = f"{folder}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.environ["NOTIFY_SOCKET"] = self.path
        os.environ["WATCHDOG_USEC"] = str(WATCHDOG_S * 1000000)

    def told(self, seconds):
        """What comes next; nothing, if that is so after the time."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(4096).decode()
        except socket.timeout:
            return None

    def drop(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(4096)
        except BlockingIOError:
            pass


def main():
    omni, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        manager = Manager(folder)
        with OmniServe(omni, model) as serve:
            for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
                del os.environ[variable]
            first = manager.told(60)
            assert first == f"READY=1\nSTATUS=serving mini at {serve.address}\n", first
            for _ in range(3):
                assert manager.told(WATCHDOG_S) == "WATCHDOG=1\n"
            serve.process.send_signal(signal.SIGSTOP)
            time.sleep(WATCHDOG_S / 2)
            manager.drop()
            assert manager.told(WATCHDOG_S) is None, "one that hangs says that it lives"
            serve.process.send_signal(signal.SIGCONT)
            assert manager.told(30) == "WATCHDOG=1\n"

            def cluster(*words):
                return subprocess.run([omni, "cluster", *words, "--cluster", serve.grpc], capture_output=True,
                                      text=True, check=False)

            healthy = cluster("health", "--json")
            assert healthy.returncode == 0 and json.loads(healthy.stdout) == {"serving": True}, healthy
            vain = cluster("drain", "nobody", "--wait", "60s")
            assert vain.returncode == 1 and "there is no node nobody" in vain.stderr, vain
            second = subprocess.Popen(
                [omni, "node", "-m", model, "--name", "second", "--listen", "127.0.0.1:0", "--join", serve.grpc],
                env={**os.environ, "XDG_STATE_HOME": folder}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True)
            try:
                address = second.stdout.readline().split()[-1]
                joined = subprocess.run([omni, "cluster", "health", "--cluster", address], check=False)
                assert joined.returncode == 0, joined

                def regions():
                    return json.loads(cluster("status", "--json").stdout)["regions"]
                wait_for(lambda: cluster("place", "3", "second").returncode == 0, "the node")
                wait_for(lambda: regions()[3]["owner"] == "second", "the move")
                emptied = cluster("drain", "second", "--wait", "60s")
                assert emptied.returncode == 0, emptied
                assert all(r["owner"] != "second" and r["target"] != "second" for r in regions()), regions()
                both = cluster("drain", "second", "--undo", "--wait", "1s")
                assert both.returncode == 2 and "--wait does nothing beside --undo" in both.stderr, both
                assert cluster("drain", "second", "--undo").returncode == 0
            finally:
                second.terminate()
                second.wait()
                second.stdout.close()
            gone = subprocess.run([omni, "cluster", "health", "--cluster", address], capture_output=True, text=True,
                                  check=False)
            assert gone.returncode == 1 and address in gone.stderr, gone
            manager.drop()
            assert serve.end() == 0
            last = manager.told(1)
            while last == "WATCHDOG=1\n":
                last = manager.told(1)
            assert last and last.startswith("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\n"), last
    print("a manager is told what it has to know")


main()
