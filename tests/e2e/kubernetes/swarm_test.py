#!/usr/bin/env python3
"""The manifests on a real Kubernetes of three nodes, and what befalls them there: pods deleted, a node drained, a node
cut off, coordinators deleted, another image. Clients outside stream and hand in tasks all the while, and are given what
one process answers.

usage: swarm_test.py OMNI ROOT IMAGES WORK [SCENARIO...]
  IMAGES     the folder that `scripts/package image` has written
  SCENARIO   worker-deleted, node-drained, node-lost, coordinator-deleted, rolling-update, standby (default: all)
OMNI_KUBE names a program that brings the cluster: `up`, `load ARCHIVE`, `env` (prints KUBECONFIG), `cut N`, `mend N`
and `down`, with nodes kt1, kt2 and kt3, all of them on this machine. Skipped without."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from load import Clients, Load, STREAMS, TASKS  # noqa: E402
from manifests_of_test import write_overlay  # noqa: E402

if len(sys.argv) < 5:
    sys.exit(__doc__)
omni, root, images, work = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
chosen = sys.argv[5:]
kube = os.environ.get("OMNI_KUBE", "")
if not kube or os.geteuid() != 0 or not shutil.which("kubectl"):
    print("SKIPPED: needs root, kubectl, and OMNI_KUBE, a program that brings a cluster")
    sys.exit(77)
archives = {name: images / f"{name}-image.tar" for name in ("omni", "omni-mini", "omni-etcd")}
if not all(path.exists() for path in archives.values()):
    print(f"SKIPPED: {images} has no images; scripts/package image makes them")
    sys.exit(77)
failures = []


def sh(*words, check=True, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*words, **more):
    return sh("kubectl", "-n", "omni", *words, **more)


def wait(what, condition, limit=180):
    begin = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - begin
        except RuntimeError:
            pass
        if time.monotonic() - begin > limit:
            raise RuntimeError(f"{what} did not come about within {limit} s:\n{kubectl('get', 'pods', '-o', 'wide')}")
        time.sleep(0.3)


def check(what, holds, detail=""):
    print(f"{'ok' if holds else 'FAIL'}: {what}{'' if holds else ' ' + str(detail)}", flush=True)
    if not holds:
        failures.append(what)


def version_of(archive):
    return json.loads(sh("tar", "-xOf", archive, "manifest.json"))[0]["RepoTags"][0].rsplit(":", 1)[1]


def another_image(archive, tag):
    """The same file system by another name, with another label: to Kubernetes it is a new image."""
    folder = work / f"image-{tag}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sh("tar", "-C", folder, "-xf", archive)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[0]["RepoTags"] = [f"localhost/omni:{tag}"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "repositories").unlink(missing_ok=True)
    sh("tar", "-C", folder, "-cf", work / f"{tag}.tar", ".")
    return work / f"{tag}.tar"


def pods():
    return json.loads(kubectl("get", "pods", "-o", "json"))["items"]


def ready(name=None, count=None):
    """Whether the pods of that name's beginning are all there and ready, and none is on its way out."""
    found = [p for p in pods() if name is None or p["metadata"]["name"].startswith(name)]
    good = [p for p in found if "deletionTimestamp" not in p["metadata"] and any(
        c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
    return len(good) == len(found) and (len(good) == count if count else bool(good))


def whole(clients, workers=3):
    """Every region has an owner and a shadow among nodes that are up, and nothing moves."""
    status = clients.status()
    up = {n["node"] for n in status["nodes"] if n["state"] == "up"}
    return len(up) >= workers + 1 and all(r["owner"] in up and r["shadow"] in up and not r["target"]
                                          for r in status["regions"])


def node_of(pod):
    return kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")


def uid_of(pod):
    return kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")


class Swarm:
    def __init__(self, overlay, version):
        self.folder, self.version, self.overlay = work / overlay, version, overlay
        sh("kubectl", "delete", "namespace", "omni", "--ignore-not-found", "--timeout=180s")
        sh("kubectl", "delete", "pv", "--all", "--timeout=30s")
        addresses = sh("kubectl", "get", "nodes", "-o",
                       'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}').split()
        certificate = work / "certificate"
        if not certificate.exists():
            sh(omni, "cluster", "cert", work / "authority", "--node", "omni", "--out", certificate, "--hosts",
               ",".join(["*.omni-nodes.omni.svc", "omni", "omni.omni.svc", "localhost", "127.0.0.1", *addresses]))
        self.key = sh(omni, "key", "create", "--name", "test", "--scope", "infer,tasks,admin", "--keys",
                      work / "keys.json").strip()
        claims = write_overlay(root, work, overlay, version)
        sh("kubectl", "create", "namespace", "omni")
        kubectl("create", "secret", "generic", "omni-certificates", f"--from-file=ca.crt={certificate}/authority.pem",
                f"--from-file=tls.crt={certificate}/node.pem", f"--from-file=tls.key={certificate}/node.key")
        kubectl("create", "secret", "generic", "omni-keys", f"--from-file={work}/keys.json")
        for path in claims:
            os.chown(path, 10001, 10001)
        self.load_images()
        begin = time.monotonic()
        self.apply()
        wait("all pods ready", lambda: ready(count=len(claims)), 420)
        print(f"{overlay}: {len(claims)} pods ready after {time.monotonic() - begin:.1f} s", flush=True)
        port = kubectl("get", "service", "omni-outside", "-o", "jsonpath={.spec.ports[0].nodePort}")
        self.http = kubectl("get", "service", "omni-outside", "-o", "jsonpath={.spec.ports[1].nodePort}")
        self.addresses = addresses
        self.clients = Clients(omni, str(root / "models/mini"), ",".join(f"{a}:{port}" for a in addresses),
                               str(certificate))
        took = wait("every region has an owner and a shadow", lambda: whole(self.clients), 240)
        print(f"{overlay}: every region has an owner and a shadow {took:.1f} s later", flush=True)

    def load_images(self):
        # Just before they are used: a kubelet removes what nobody uses where its disk is nearly full.
        for name in ("omni", "omni-mini") if self.overlay == "swarm" else archives:
            sh(kube, "load", archives[name])

    def apply(self):
        # Server-side checks of every field are the API server's.
        sh("kubectl", "apply", "-k", self.folder)

    def scenario(self, name, blow):
        """Streams and tasks; in the middle the blow, which returns once it is mended."""
        if chosen and name not in chosen:
            return
        self.load_images()
        load = Load(self.clients, name)
        time.sleep(3)
        begin = time.monotonic()
        try:
            blow()
            took = wait("the swarm is whole again", lambda: whole(self.clients), 300)
        finally:
            mended = time.monotonic() - begin
            report = load.end()
        print(f"{self.overlay} {name}: mended after {mended:.1f} s; " + json.dumps(report), flush=True)
        check(f"{name}: nothing is lost or different under {STREAMS} streams and {TASKS} tasks",
              report["wrong"] == 0 and report["lost"] == 0 and report["answers"] >= STREAMS, load.errors[:3])
        return took


def deleted(pod):
    def blow():
        before = uid_of(pod)
        kubectl("delete", "pod", pod, "--force", "--grace-period=0")
        wait(f"{pod} is another", lambda: uid_of(pod) != before and ready(pod, 1))
    return blow


def gone_well(pod):
    def blow():
        before = uid_of(pod)
        kubectl("delete", "pod", pod, "--wait=true")
        wait(f"{pod} is another", lambda: uid_of(pod) != before and ready(pod, 1))
    return blow


def drained():
    node = node_of("omni-worker-1")
    sh("kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=150s")
    sh("kubectl", "uncordon", node)
    wait("all pods ready", ready)


def cut():
    # Not where the coordinator is: where there is one, nobody answers without it.
    node = next(n for n in ("kt1", "kt2", "kt3") if n != node_of("omni-coordinator-0") and
                any(p["spec"]["nodeName"] == n for p in pods()))
    number = node.removeprefix("kt")
    sh(kube, "cut", number)
    try:
        wait("Kubernetes sees it", lambda: "NotReady" in sh("kubectl", "get", "node", node, "--no-headers"), 90)
        time.sleep(10)
    finally:
        sh(kube, "mend", number)
    wait("it is back", lambda: "NotReady" not in sh("kubectl", "get", "node", node, "--no-headers"), 120)
    wait("all pods ready", ready)


def rolled(swarm):
    def blow():
        sh(kube, "load", another_image(archives["omni"], "next"))
        write_overlay(root, work, swarm.overlay, swarm.version, "next")
        swarm.apply()
        for name in ("omni-coordinator", "omni-worker"):
            kubectl("rollout", "status", f"statefulset/{name}", "--timeout=300s")
        wait("all pods ready", ready)
        used = {c["image"] for p in pods() for c in p["spec"]["containers"] if c["name"] == "omni"}
        check("rolling-update: every pod has the new image", all(i.endswith("omni:next") for i in used), used)
    return blow


def confinement(swarm):
    """What is running is as confined as the manifests say."""
    for pod in ("omni-coordinator-0", "omni-worker-0"):
        def inside(*words, check=True):
            return kubectl("exec", pod, "-c", "omni", "--", *words, check=check).strip()
        ids = inside("cat", "/proc/1/status")
        check(f"{pod} is nobody's root", re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", ids, re.M), ids)
        check(f"{pod} has no capability", re.search(r"^CapBnd:\s+0+$", ids, re.M), ids)
        check(f"{pod} gains no privileges", "NoNewPrivs:\t1" in ids, ids)
        check(f"{pod}'s system calls are filtered", "Seccomp:\t2" in ids, ids)
        wrote = inside("sh", "-c", "for d in / /usr /etc /etc/omni /tmp /root /var /home; do "
                       "touch $d/x 2>/dev/null && echo $d; done; true", check=False)
        check(f"{pod} writes nothing outside its volume", wrote == "", wrote)
        mounts = inside("sh", "-c", "ls /var/run/secrets/kubernetes.io 2>&1; true")
        check(f"{pod} has no token", "No such file" in mounts, mounts)
    answered = sh("curl", "-sS", "-k", "--max-time", "60", "-H", f"Authorization: Bearer {swarm.key}", "-H",
                  "Content-Type: application/json", "-d", '{"prompt": "The sea", "max_tokens": 4}',
                  f"https://{swarm.addresses[0]}:{swarm.http}/v1/completions", check=False)
    check("a client outside is answered over HTTPS", '"text"' in answered, answered)
    refused = sh("curl", "-sS", "-k", "-o", "/dev/null", "-w", "%{http_code}",
                 f"https://{swarm.addresses[0]}:{swarm.http}/v1/models", check=False)
    check("and one without a key is not", refused == "401", refused)


def main():
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sh(kube, "up")
    try:
        os.environ["KUBECONFIG"] = re.search(r"KUBECONFIG=(\S+)", sh(kube, "env"))[1]
        version = version_of(archives["omni"])
        swarm = Swarm("swarm", version)
        confinement(swarm)
        swarm.scenario("worker-deleted", deleted("omni-worker-0"))
        swarm.scenario("node-drained", drained)
        swarm.scenario("node-lost", cut)
        swarm.scenario("coordinator-deleted", deleted("omni-coordinator-0"))
        swarm.scenario("rolling-update", rolled(swarm))
        if not chosen or "standby" in chosen:
            swarm = Swarm("swarm-ha", version)
            leader = swarm.clients.status()["coordinator"]
            other = "omni-coordinator-" + str(1 - int(leader[-1]))

            def over_and_back():
                deleted(leader)()
                wait("the other leads", lambda: swarm.clients.status()["coordinator"] == other)
                # Tasks are where they were accepted: its place is given back to whoever has them.
                wait("all is whole", lambda: whole(swarm.clients))
                gone_well(other)()
                wait("the first leads again", lambda: swarm.clients.status()["coordinator"] == leader)
            swarm.scenario("standby", over_and_back)
    finally:
        if not os.environ.get("OMNI_KUBE_KEEP"):
            sh(kube, "down", check=False)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
