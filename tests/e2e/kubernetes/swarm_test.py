#!/usr/bin/env python3
"""The manifests on a real Kubernetes of three nodes, and what befalls them there: pods deleted, a node drained, a node
cut off, coordinators deleted, another image. Clients outside stream and hand in tasks all the while, and are given what
one process answers.

usage: swarm_test.py OMNI ROOT IMAGES WORK [SCENARIO...]
  IMAGES     the folder that `scripts/package image` has written
  SCENARIO   settings, backup, worker-deleted, node-drained, node-lost, coordinator-deleted, rolling-update; of the
             swarm with a second coordinator: standby-rolling-update, standby-deleted, standby-roll-back (default: all)
OMNI_KUBE names a program that brings the cluster: `up`, `load ARCHIVE`, `env` (prints KUBECONFIG), `cut N`, `mend N`
and `down`, with nodes kt1, kt2 and kt3, all of them on this machine. Skipped without. OMNI_FORMER_IMAGES may name a
folder with images of an earlier version: the swarm with a second coordinator begins with those, is upgraded to IMAGES
and taken back; without, the one image by two names is both."""
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from load import Clients, Load, STREAMS, TASKS  # noqa: E402
from manifests_of_test import write_overlay  # noqa: E402
from restricted import refused  # noqa: E402

if len(sys.argv) < 5:
    sys.exit(__doc__)
omni, root, images, work = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
chosen = sys.argv[5:]
kube = os.environ.get("OMNI_KUBE", "")
if not kube or os.geteuid() != 0 or not shutil.which("kubectl"):
    print("SKIPPED: needs root, kubectl, and OMNI_KUBE, a program that brings a cluster")
    sys.exit(77)
NAMES = ("omni", "omni-mini", "omni-etcd")


def archives_in(folder):
    return {name: folder / f"{name}-image.tar" for name in NAMES}


archives = archives_in(images)
former = archives_in(pathlib.Path(os.environ["OMNI_FORMER_IMAGES"])) if "OMNI_FORMER_IMAGES" in os.environ else None
if not all(path.exists() for path in [*archives.values(), *(former or {}).values()]):
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
    """The same file system with another label and by another name: a new image, of another digest."""
    folder = work / f"image-{tag}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sh("tar", "-C", folder, "-xf", archive)
    manifest = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / manifest[0]["Config"]).read_text())
    config["config"].setdefault("Labels", {})["org.opencontainers.image.version"] = tag
    text = json.dumps(config)
    (folder / manifest[0]["Config"]).unlink()
    manifest[0]["Config"] = hashlib.sha256(text.encode()).hexdigest() + ".json"
    (folder / manifest[0]["Config"]).write_text(text)
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
    def __init__(self, overlay, begin=None):
        self.folder, self.overlay, self.archives = work / overlay, overlay, begin or archives
        self.version = version_of(self.archives["omni"])
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
        claims = write_overlay(root, work, overlay, self.version)
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
        for name in ("omni", "omni-mini") if self.overlay == "swarm" else NAMES:
            sh(kube, "load", self.archives[name])

    def apply(self):
        # Server-side checks of every field are the API server's.
        sh("kubectl", "apply", "-k", self.folder)

    def scenario(self, name, blow, cuts_off=False):
        """Streams and tasks; in the middle the blow, which returns once it is mended. `cuts_off`: streams lose what
        they are read from."""
        if chosen and name not in chosen:
            return
        self.load_images()
        load = Load(self.clients, name)
        time.sleep(3)
        load.strike()
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
        check(f"{name}: answers were under way", report["under_way"] >= STREAMS / 2, report)
        if cuts_off:
            # By the clients themselves, or for them by the coordinator that they are connected to.
            check(f"{name}: and were taken up again", report["longest_gap_s"] > 1, report)
        return took


def deleted(pod):
    def blow():
        before = uid_of(pod)
        kubectl("delete", "pod", pod, "--force", "--grace-period=0")
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


def leader_of(swarm):
    return swarm.clients.status()["coordinator"]


def taken_over(swarm):
    """The pod that leads is deleted: the other takes over, unless the one that replaces it is there before."""
    def blow():
        before = swarm.clients.status()
        leader, term = before["coordinator"], before["term"]
        begin = time.monotonic()
        kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        wait("somebody leads anew", lambda: swarm.clients.status()["term"] > term)
        print(f"{swarm.overlay}: {leader_of(swarm)} led {time.monotonic() - begin:.1f} s after {leader} was deleted",
              flush=True)
        wait(f"{leader} is back", lambda: ready(leader, 1))
    return blow


def rolled(swarm, name, tag, change):
    """After `change` coordinators and workers become those of another image, one after the other."""
    def blow():
        begin = time.monotonic()
        change()
        for what in ("omni-coordinator", "omni-worker"):
            kubectl("rollout", "status", f"statefulset/{what}", "--timeout=300s")
        wait("all pods ready", ready)
        print(f"{swarm.overlay} {name}: every pod is another {time.monotonic() - begin:.1f} s later", flush=True)
        used = {c["image"] for p in pods() for c in p["spec"]["containers"] if c["name"] == "omni"}
        check(f"{name}: every pod has the image", all(i.endswith(f"omni:{tag}") for i in used), used)
    return blow


def updated(swarm, name, tag):
    def change():
        write_overlay(root, work, swarm.overlay, swarm.version, tag)
        swarm.apply()
    return rolled(swarm, name, tag, change)


def undone(swarm, name):
    def change():
        for what in ("omni-coordinator", "omni-worker"):
            kubectl("rollout", "undo", f"statefulset/{what}")
    return rolled(swarm, name, swarm.version, change)


def confinement(swarm):
    """What is running is as confined as the manifests say."""
    for pod in pods():
        broken = refused(pod["spec"])
        check(f"{pod['metadata']['name']} would be admitted by a namespace that is restricted", not broken, broken)
    if not sh("kubectl", "api-versions").count("policy/v1\n"):
        print("this cluster is older than the admission of that profile: its rules are those of the test")
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
    without = sh("curl", "-sS", "-k", "-o", "/dev/null", "-w", "%{http_code}",
                 f"https://{swarm.addresses[0]}:{swarm.http}/v1/models", check=False)
    check("and one without a key is not", without == "401", without)
    policies = {p["metadata"]["name"] for p in json.loads(kubectl("get", "networkpolicy", "-o", "json"))["items"]}
    check("the policies of the network are there", {"omni", "omni-clients"} <= policies, policies)
    # Nothing may go out of a worker but to other nodes and to names: the API server is neither.
    reached = kubectl("exec", "omni-worker-0", "-c", "omni", "--", "sh", "-c",
                      "timeout 20 omni cluster health --cluster 10.96.0.1:443 2>&1 || true", check=False)
    # Whoever enforces the policy lets no connection come about; a wrong certificate comes after that.
    print(f"out of a worker to what the policies do not name, it is said: {reached.strip()}", flush=True)


def reloaded(swarm):
    """A key that is added to the Secret counts without a restart."""
    before = {p["metadata"]["name"]: p["metadata"]["uid"] for p in pods()}
    key = sh(omni, "key", "create", "--name", "later", "--scope", "infer", "--keys", work / "keys.json").strip()
    secret = json.loads(kubectl("get", "secret", "omni-keys", "-o", "json"))
    secret["data"]["keys.json"] = base64.b64encode((work / "keys.json").read_bytes()).decode()
    kubectl("apply", "-f", "-", input=json.dumps({k: secret[k] for k in ("apiVersion", "kind", "data", "type")} |
                                                 {"metadata": {"name": "omni-keys", "namespace": "omni"}}))
    begin = time.monotonic()
    wait("the new key counts", lambda: sh(
        "curl", "-sS", "-k", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {key}",
        f"https://{swarm.addresses[0]}:{swarm.http}/v1/models", check=False) == "200", 180)
    print(f"a key that was added to the Secret counts after {time.monotonic() - begin:.1f} s", flush=True)
    after = {p["metadata"]["name"]: p["metadata"]["uid"] for p in pods()}
    check("and no pod is another", before == after, after)


def restored(swarm):
    """The claim of the coordinator's state, copied while nobody has it, lost and brought back."""
    name = f"backup-{int(time.time())}"
    child = {"work": {"model": {"prompt": "The sea", "max_tokens": 4, "temperature": 0}}, "context": name}
    spec = work / "backup.json"
    spec.write_text(json.dumps({"work": {"fan_out": {"children": [child] * 20}}, "context": name + "-fan"}))

    def listed():
        found = json.loads(swarm.clients.run(["task", "list", "--context", name, "-n", "500", "--json",
                                              *swarm.clients.place]))["tasks"]
        return {t["id"]: t["status"] for t in found}
    swarm.clients.run(["task", "submit", "--file", str(spec), "--key", name, *swarm.clients.place])
    wait("the tasks are over", lambda: list(listed().values()).count("SUCCEEDED") == 20)
    before = listed()
    kubectl("scale", "statefulset/omni-coordinator", "--replicas=0")
    wait("nobody coordinates", lambda: not any("coordinator" in p["metadata"]["name"] for p in pods()))
    state = work / "volumes" / swarm.overlay / "state-omni-coordinator-0"
    sh("cp", "-a", state, work / "backup")
    for path in state.iterdir():
        sh("rm", "-rf", path)
    for path in (work / "backup").iterdir():
        sh("cp", "-a", path, state)
    kubectl("scale", "statefulset/omni-coordinator", "--replicas=1")
    wait("all pods ready", lambda: ready(count=4))
    wait("every region has an owner and a shadow", lambda: whole(swarm.clients), 240)
    check("tasks are there that were done before the backup was restored", listed() == before, listed())


def main():
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sh(kube, "up")
    try:
        os.environ["KUBECONFIG"] = re.search(r"KUBECONFIG=(\S+)", sh(kube, "env"))[1]
        if not chosen or any("standby" not in name for name in chosen):
            swarm = Swarm("swarm")
            confinement(swarm)
            for name, what in (("settings", reloaded), ("backup", restored)):
                if not chosen or name in chosen:
                    what(swarm)
            swarm.scenario("worker-deleted", deleted("omni-worker-0"))
            swarm.scenario("node-drained", drained)
            swarm.scenario("node-lost", cut)
            swarm.scenario("coordinator-deleted", deleted("omni-coordinator-0"), cuts_off=True)
            sh(kube, "load", another_image(archives["omni"], "next"))
            swarm.scenario("rolling-update", updated(swarm, "rolling-update", "next"))
        if not chosen or any("standby" in name for name in chosen):
            swarm = Swarm("swarm-ha", former)
            tag = version_of(archives["omni"]) if former else "next"
            sh(kube, "load", archives["omni"] if former else another_image(archives["omni"], "next"))
            swarm.scenario("standby-rolling-update", updated(swarm, "standby-rolling-update", tag))
            swarm.scenario("standby-deleted", taken_over(swarm), cuts_off=True)
            swarm.scenario("standby-roll-back", undone(swarm, "standby-roll-back"))
    finally:
        if not os.environ.get("OMNI_KUBE_KEEP"):
            sh(kube, "down", check=False)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
