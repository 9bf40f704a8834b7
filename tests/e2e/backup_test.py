#!/usr/bin/env python3
"""The state folder brought back from a backup: a server is killed at work, its folder is copied, lost and restored, and
the server started again goes on where the copy was made. usage: backup_test.py OMNI MODEL"""
import atexit
import base64
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

TASKS, TASK_TOKENS, TOKENS = 40, 400, 8000
TEXTS = ["The sea", "It was a dark night", "The old man said", "In the garden"]
omni, model = sys.argv[1:]


def run(*words):
    done = subprocess.run([omni, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"omni {' '.join(words[:3])}: {done.stderr}"
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))


class Server:
    def __init__(self, state):
        self.process = subprocess.Popen(
            [omni, "serve", "-m", model, "--listen", http, "--grpc", grpc, "--state", str(state), "--durable", "sync",
             "-t", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        atexit.register(self.process.kill)
        for what in ("listening on", "gRPC at"):
            line = self.process.stdout.readline()
            assert line.startswith(what), line

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def tasks():
    listed = json.loads(run("task", "list", "--context", "kept", "-n", "500", "--json", "--cluster", grpc))["tasks"]
    return {t["id"]: t["status"] for t in listed}


def result(task):
    whole = json.loads(run("task", "get", task, "--json", "--cluster", grpc))
    return whole["labels"]["text"], base64.b64decode(whole.get("result", "")).decode()


def locally(text, tokens, *more):
    return json.loads(run("run", text, "-n", str(tokens), "--temp", "0", "-m", model, "--json", "--log-level", "error",
                          *more))["text"]


def wait(what, condition, limit=240):
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.1)


with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    wanted = {text: locally(text, TASK_TOKENS) for text in TEXTS}
    wanted_answer = locally("The captain looked", TOKENS, "--ignore-eos")
    server = Server(at / "state")
    children = [{"work": {"model": {"prompt": TEXTS[i % len(TEXTS)], "max_tokens": TASK_TOKENS, "temperature": 0}},
                 "labels": {"text": TEXTS[i % len(TEXTS)]}, "context": "kept"} for i in range(TASKS)]
    (at / "spec.json").write_text(json.dumps({"work": {"fan_out": {"children": children}}, "context": "whole"}))
    run("task", "submit", "--file", str(at / "spec.json"), "--cluster", grpc)
    client = subprocess.Popen(
        [omni, "run", "The captain looked", "-n", str(TOKENS), "--temp", "0", "--ignore-eos", "--cluster", grpc,
         "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait("some tasks are over", lambda: "SUCCEEDED" in tasks().values())
    server.kill()
    assert client.poll() is None, "the answer is over before the server was: nothing is shown"

    shutil.copytree(at / "state", at / "backup")
    shutil.rmtree(at / "state")
    shutil.copytree(at / "backup", at / "state")
    server = Server(at / "state")
    before = tasks()
    assert len(before) == TASKS, f"{len(before)} of {TASKS} tasks are there"
    answer = json.loads(client.communicate(timeout=240)[0])
    assert answer["text"] == wanted_answer, "the answer is another"
    assert answer["reconnects"] >= 1, answer
    wait("all tasks are over", lambda: set(tasks().values()) == {"SUCCEEDED"})
    for task in tasks():
        text, said = result(task)
        assert said == wanted[text], f"task {task} says {said!r}, not {wanted[text]!r}"
    server.kill()
    over = list(before.values()).count("SUCCEEDED")
    print(f"{TASKS} tasks, {over} of them over when they were restored, and an answer of {TOKENS} tokens went on from "
          "a copy")
    assert 0 < over < TASKS, "what was under way was not shown, or what was over"
