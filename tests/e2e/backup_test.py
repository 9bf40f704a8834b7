#!/usr/bin/env python3
"""The state folder brought back from a backup: a server is killed at work, its folder is copied, lost and restored, and
the server started again goes on where the copy was made. usage: backup_test.py OMNI MODEL"""
import atexit
import pathlib
import shutil
import subprocess
import sys
import tempfile

from omni_serve import wait_for
from restored import Omni, TASK_TOKENS, TASKS, TEXTS, free_address

TOKENS = 8000
program, model = sys.argv[1:]
http, grpc = free_address(), free_address()
omni = Omni(program, model, grpc)


class Server:
    def __init__(self, state):
        self.process = subprocess.Popen(
            [program, "serve", "-m", model, "--listen", http, "--grpc", grpc, "--state", str(state), "--durable",
             "sync", "-t", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        atexit.register(self.process.kill)
        for what in ("listening on", "gRPC at"):
            line = self.process.stdout.readline()
            assert line.startswith(what), line

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    wanted = {text: omni.locally(text, TASK_TOKENS) for text in TEXTS}
    wanted_answer = omni.locally("The captain looked", TOKENS, "--ignore-eos")
    server = Server(at / "state")
    omni.submit(at)
    client = omni.stream("The captain looked", TOKENS)
    atexit.register(client.kill)
    wait_for(lambda: omni.succeeded() > 0, "a task to end")
    server.kill()
    assert client.poll() is None, "the answer is over before the server was: nothing is shown"

    shutil.copytree(at / "state", at / "backup")
    shutil.rmtree(at / "state")
    shutil.copytree(at / "backup", at / "state")
    server = Server(at / "state")
    before = omni.tasks()
    assert len(before) == TASKS, f"{len(before)} of {TASKS} tasks are there"
    omni.check_stream(client, wanted_answer)
    omni.check_tasks(wanted)
    server.kill()
    over = list(before.values()).count("SUCCEEDED")
    print(f"{TASKS} tasks, {over} of them over when they were restored, and an answer of {TOKENS} tokens went on from "
          "a copy")
    assert 0 < over < TASKS, "what was under way was not shown, or what was over"
