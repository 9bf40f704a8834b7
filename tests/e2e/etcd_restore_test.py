#!/usr/bin/env python3
"""etcd brought back from a snapshot: of a cluster at work etcd is saved, works on, and is lost with the coordinator and
all that they kept; a coordinator over what etcdctl restores goes on. usage: etcd_restore_test.py OMNI MODEL"""
import atexit
import pathlib
import shutil
import subprocess
import sys
import tempfile

from omni_serve import need, wait_for
from restored import Omni, TASK_TOKENS, TASKS, TEXTS, free_address

TOKENS = 12000
program, model = sys.argv[1:]
need("etcd", "etcdctl")
clients, peers, coordinator, worker = (free_address() for _ in range(4))
omni = Omni(program, model, coordinator)


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
    return start(program, "node", "-m", model, "--name", "a", "--listen", coordinator, "--etcd", clients, "--durable",
                 "cluster", "--state", str(state), "-t", "1")


def kill(process):
    process.kill()
    process.wait()


def serves():
    return subprocess.run([program, "cluster", "status", "--cluster", coordinator], capture_output=True,
                          check=False).returncode == 0


with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    wanted = {text: omni.locally(text, TASK_TOKENS) for text in TEXTS}
    wanted_answer = omni.locally("The captain looked", TOKENS, "--ignore-eos")
    etcd, leader = start_etcd(at / "etcd"), start_coordinator(at / "state")
    node = start(program, "node", "-m", model, "--name", "b", "--listen", worker, "--join", coordinator, "-t", "1")
    wait_for(serves, "the cluster to serve")
    omni.submit(at)
    client = omni.stream("The captain looked", TOKENS)
    atexit.register(client.kill)
    wait_for(lambda: omni.succeeded() > 0, "a task to end")
    etcdctl("snapshot", "save", str(at / "snapshot"))
    saved = omni.succeeded()
    wait_for(lambda: omni.succeeded() > saved + 2, "it to work on")
    assert client.poll() is None, "the answer is over before the cluster was: nothing is shown"
    for process in (leader, etcd):
        kill(process)
    shutil.rmtree(at / "etcd")
    shutil.rmtree(at / "state")

    etcdctl("snapshot", "restore", str(at / "snapshot"), "--data-dir", str(at / "etcd"), "--name", "default",
            "--initial-cluster", f"default=http://{peers}", "--initial-advertise-peer-urls", f"http://{peers}")
    etcd, leader = start_etcd(at / "etcd"), start_coordinator(at / "state")
    wait_for(serves, "the cluster to serve again")
    before = omni.tasks()
    assert len(before) == TASKS, f"{len(before)} of {TASKS} tasks are there"
    over = list(before.values()).count("SUCCEEDED")
    assert 0 < over < TASKS, f"{over} tasks are over: what was under way was not shown, or what was over"
    omni.check_stream(client, wanted_answer)
    omni.check_tasks(wanted)
    for process in (leader, node, etcd):
        kill(process)
    print(f"{TASKS} tasks, {over} of them over in the snapshot, and an answer of {TOKENS} tokens went on from it")
