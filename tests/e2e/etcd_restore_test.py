#!/usr/bin/env python3
"""etcd brought back from a snapshot: of a cluster at work etcd is saved, works on, and is lost with the coordinator and
all that they kept; a coordinator over what etcdctl restores goes on. usage: etcd_restore_test.py OMNI MODEL"""
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

TASKS, TASK_TOKENS, TOKENS = 40, 400, 12000
TEXTS = ["The sea", "It was a dark night", "The old man said", "In the garden"]
omni, model = sys.argv[1:]
missing = [program for program in ("etcd", "etcdctl") if shutil.which(program) is None]
if missing:
    print(f"skipped: there is no {', no '.join(missing)} (etcd-server, etcd-client)")
    sys.exit(77)


def run(*words):
    done = subprocess.run([omni, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"omni {' '.join(words[:3])}: {done.stderr}"
    return done.stdout


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


clients, peers, coordinator, worker = (free_address() for _ in range(4))


def etcdctl(*words):
    done = subprocess.run(["etcdctl", f"--endpoints=http://{clients}", *words], capture_output=True, text=True,
                          check=False, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/local/bin"})
    assert done.returncode == 0, f"etcdctl {words[0]}: {done.stderr}"


def start(*command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)
    return process


def start_etcd(data):
    return start("etcd", "--data-dir", str(data), "--listen-client-urls", f"http://{clients}",
                 "--advertise-client-urls", f"http://{clients}", "--listen-peer-urls", f"http://{peers}",
                 "--initial-advertise-peer-urls", f"http://{peers}", "--initial-cluster", f"default=http://{peers}")


def start_coordinator(state):
    return start(omni, "node", "-m", model, "--name", "a", "--listen", coordinator, "--etcd", clients, "--durable",
                 "cluster", "--state", str(state), "-t", "1")


def kill(process):
    process.kill()
    process.wait()


def tasks():
    listed = json.loads(run("task", "list", "--context", "kept", "-n", "500", "--json", "--cluster", coordinator))
    return {t["id"]: t["status"] for t in listed["tasks"]}


def result(task):
    whole = json.loads(run("task", "get", task, "--json", "--cluster", coordinator))
    return whole["labels"]["text"], base64.b64decode(whole.get("result", "")).decode()


def locally(text, tokens, *more):
    return json.loads(run("run", text, "-n", str(tokens), "--temp", "0", "-m", model, "--json", "--log-level", "error",
                          *more))["text"]


def wait(what, condition, limit=240):
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.1)


def serves():
    return subprocess.run([omni, "cluster", "status", "--cluster", coordinator], capture_output=True,
                          check=False).returncode == 0


with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    wanted = {text: locally(text, TASK_TOKENS) for text in TEXTS}
    wanted_answer = locally("The captain looked", TOKENS, "--ignore-eos")
    etcd, leader = start_etcd(at / "etcd"), start_coordinator(at / "state")
    node = start(omni, "node", "-m", model, "--name", "b", "--listen", worker, "--join", coordinator, "-t", "1")
    wait("the cluster serves", serves)
    children = [{"work": {"model": {"prompt": TEXTS[i % len(TEXTS)], "max_tokens": TASK_TOKENS, "temperature": 0}},
                 "labels": {"text": TEXTS[i % len(TEXTS)]}, "context": "kept"} for i in range(TASKS)]
    (at / "spec.json").write_text(json.dumps({"work": {"fan_out": {"children": children}}, "context": "whole"}))
    run("task", "submit", "--file", str(at / "spec.json"), "--cluster", coordinator)
    client = subprocess.Popen(
        [omni, "run", "The captain looked", "-n", str(TOKENS), "--temp", "0", "--ignore-eos", "--cluster", coordinator,
         "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    atexit.register(client.kill)
    wait("some tasks are over", lambda: "SUCCEEDED" in tasks().values())
    etcdctl("snapshot", "save", str(at / "snapshot"))
    saved = list(tasks().values()).count("SUCCEEDED")
    wait("it has worked on", lambda: list(tasks().values()).count("SUCCEEDED") > saved + 2)
    assert client.poll() is None, "the answer is over before the cluster was: nothing is shown"
    for process in (leader, etcd):
        kill(process)
    shutil.rmtree(at / "etcd")
    shutil.rmtree(at / "state")

    etcdctl("snapshot", "restore", str(at / "snapshot"), "--data-dir", str(at / "etcd"), "--name", "default",
            "--initial-cluster", f"default=http://{peers}", "--initial-advertise-peer-urls", f"http://{peers}")
    etcd, leader = start_etcd(at / "etcd"), start_coordinator(at / "state")
    wait("the cluster serves again", serves)
    before = tasks()
    assert len(before) == TASKS, f"{len(before)} of {TASKS} tasks are there"
    over = list(before.values()).count("SUCCEEDED")
    assert 0 < over < TASKS, f"{over} tasks are over: what was under way was not shown, or what was over"
    out, err = client.communicate(timeout=300)
    assert client.returncode == 0, f"the answer did not go on: {err}"
    answer = json.loads(out)
    assert answer["text"] == wanted_answer, "the answer is another"
    assert answer["reconnects"] >= 1, answer
    wait("all tasks are over", lambda: set(tasks().values()) == {"SUCCEEDED"})
    for task in tasks():
        text, said = result(task)
        assert said == wanted[text], f"task {task} says {said!r}, not {wanted[text]!r}"
    for process in (leader, node, etcd):
        kill(process)
    print(f"{TASKS} tasks, {over} of them over in the snapshot, and an answer of {TOKENS} tokens went on from it")
