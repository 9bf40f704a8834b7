#!/usr/bin/env python3
"""The manifests in deploy/kubernetes, without a cluster: every overlay and component builds, and what it gives is
whole, confined, and speaks of variables, metrics and ports that there are. usage: kubernetes_test.py OMNI ROOT WORK"""
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True

try:
    import yaml
except ImportError:
    print("SKIPPED: needs python3-yaml")
    sys.exit(77)
if shutil.which("kubectl") is None:
    print("SKIPPED: needs kubectl, whose kustomize builds the overlays (apt-get install kubernetes-client)")
    sys.exit(77)

import manifests  # noqa: E402
import restricted  # noqa: E402

omni, root, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
kubernetes = root / "deploy/kubernetes"


def variables(verb):
    text = subprocess.run([omni, verb, "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\(Env:(OMNI_\w+)\)", text))


def build(folder):
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"{folder}: {made.stderr}"
    assert not made.stderr.strip(), f"{folder}: {made.stderr}"
    return [o for o in yaml.safe_load_all(made.stdout) if o]


def with_components(overlay, *components):
    """An overlay and components together, as a user would write it."""
    folder = work / "-".join((overlay, *components))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = os.path.relpath(kubernetes, folder)
    (folder / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "omni",
        "resources": [f"{here}/overlays/{overlay}"], "components": [f"{here}/components/{c}" for c in components]}))
    return build(folder)


def workloads(objects):
    return sorted((o["kind"], o["metadata"]["name"], o["spec"]["replicas"])
                  for o in objects if o["kind"] == "StatefulSet")


known = {verb: variables(verb) for verb in ("serve", "node")}
assert len(known["serve"]) > 20, known

coordinator, worker, etcd = "omni-coordinator", "omni-worker", "omni-etcd"
expected = {
    "single": [("StatefulSet", coordinator, 1)],
    "swarm": [("StatefulSet", coordinator, 1), ("StatefulSet", worker, 3)],
    "swarm-ha": [("StatefulSet", coordinator, 2), ("StatefulSet", etcd, 3), ("StatefulSet", worker, 3)],
}
for overlay, sets in expected.items():
    objects = build(kubernetes / "overlays" / overlay)
    assert workloads(objects) == sets, workloads(objects)
    assert manifests.problems(objects, known) == [], (overlay, manifests.problems(objects, known))
    older = with_components(overlay, "kubernetes-1.20")
    assert {o["apiVersion"] for o in older if o["kind"] == "PodDisruptionBudget"} == {"policy/v1beta1"}
    more = with_components(overlay, "cert-manager", "monitoring")
    assert manifests.problems(more, known) == [], manifests.problems(more, known)
    assert {"PodMonitor", "PrometheusRule", "Issuer", "Certificate"} <= {o["kind"] for o in more}

# Another content of the settings is another name, in the pods too.
names = [o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"]
assert len(names) == 1 and re.fullmatch(r"omni-settings-[a-z0-9]+", names[0]), names

# Each check finds what it is for.
def planted(change):
    altered = copy.deepcopy(objects)
    pod = next(o for o in altered if o["kind"] == "StatefulSet" and o["metadata"]["name"] == worker)
    change(altered, pod["spec"]["template"]["spec"])
    return " ".join(manifests.problems(altered, known))


def env(pod):
    return pod["containers"][0]["env"]


for what, change in {
        "may run as root": lambda o, pod: pod["securityContext"].pop("runAsNonRoot"),
        "root file system can be written": lambda o, pod: pod["containers"][0]["securityContext"].update(
            readOnlyRootFilesystem=False),
        "gain privileges": lambda o, pod: pod["containers"][0]["securityContext"]["capabilities"].update(
            add=["NET_RAW"]),
        "token of Kubernetes": lambda o, pod: pod.update(automountServiceAccountToken=True),
        "system calls": lambda o, pod: pod["securityContext"].pop("seccompProfile"),
        "OMNI_NAMES is no variable": lambda o, pod: env(pod).append({"name": "OMNI_NAMES", "value": "x"}),
        "not known before it": lambda o, pod: env(pod).reverse(),
    "wants OMNI_ETCD": lambda o, pod: env(pod).append({"name": "OMNI_DURABLE", "value": "cluster"}),
        "memory has no limit": lambda o, pod: pod["containers"][0]["resources"].pop("limits"),
        "no livenessProbe": lambda o, pod: pod["containers"][0].pop("livenessProbe"),
        "which is no port": lambda o, pod: pod["containers"][0]["startupProbe"]["tcpSocket"].update(port="http"),
        "secret that nobody": lambda o, pod: pod["volumes"][0]["secret"].update(secretName="omni-certs"),
        "there is no volume": lambda o, pod: pod["volumes"].clear(),
        "kind that the restricted profile refuses": lambda o, pod: pod["volumes"].append(
            {"name": "host", "hostPath": {"path": "/"}}),
        "there is no ConfigMap": lambda o, pod: pod["containers"][0]["envFrom"][0]["configMapRef"].update(name="omni"),
        "has no PodDisruptionBudget": lambda o, pod: o.remove(next(
            b for b in o if b["kind"] == "PodDisruptionBudget" and b["metadata"]["name"] == worker)),
        "is there twice": lambda o, pod: o.append(o[-1]),
        "is not in the namespace": lambda o, pod: o[-1]["metadata"].update(namespace="default"),
}.items():
    assert what in planted(change), (what, planted(change))

# The restricted profile's own rules, each of which finds its fault.
for o in objects:
    if o["kind"] == "StatefulSet":
        assert restricted.refused(o["spec"]["template"]["spec"]) == [], o["metadata"]["name"]
namespace = next(o for o in objects if o["kind"] == "Namespace")
assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def confined(pod):
    return pod["containers"][0]["securityContext"]


for what, change in {
        "host's namespaces": lambda pod: pod.update(hostPID=True),
        "kind that is not allowed": lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "sysctls": lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
        "is privileged": lambda pod: confined(pod).update(privileged=True),
        "gain privileges": lambda pod: confined(pod).pop("allowPrivilegeEscalation"),
        "adds capabilities": lambda pod: confined(pod)["capabilities"].update(add=["SYS_PTRACE"]),
        "another /proc": lambda pod: confined(pod).update(procMount="Unmasked"),
        "run as root": lambda pod: confined(pod).update(runAsUser=0),
        "not confined": lambda pod: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        "SELinux": lambda pod: confined(pod).update(seLinuxOptions={"type": "spc_t"}),
        "port of the host": lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80),
}.items():
    pod = copy.deepcopy(next(o for o in objects if o["kind"] == "StatefulSet"))["spec"]["template"]["spec"]
    change(pod)
    assert what in " ".join(restricted.refused(pod)), (what, restricted.refused(pod))

# What is told and asked of metrics exists, and the runbook has every alert.
source = "".join(p.read_text() for p in (root / "cluster/http").glob("*metrics.cc"))
there = set(re.findall(r'"((?:omni|process)_\w+)"', source))
rules = next(o for o in more if o["kind"] == "PrometheusRule")["spec"]
dashboard = json.loads((kubernetes / "components/monitoring/dashboard.json").read_text())
asked = [r["expr"] for g in rules["groups"] for r in g["rules"]] + \
        [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
used = set(re.findall(r"\b(?:omni|process)_\w+", " ".join(asked)))
unknown = {name for name in used if name not in there and re.sub(r"_(bucket|sum|count)$", "", name) not in there}
assert not unknown, f"no such metrics: {unknown}"
page = (root / "docs/deploy.md").read_text()
for rule in (r for g in rules["groups"] for r in g["rules"]):
    assert f"| `{rule['alert']}` |" in page, f"docs/deploy.md says nothing of {rule['alert']}"
if shutil.which("promtool"):
    (work / "rules.yaml").write_text(yaml.safe_dump(rules))
    queries = {"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel:{i}", "expr": e.replace("$__rate_interval", "5m")} for i, e in enumerate(asked)]}]}
    (work / "queries.yaml").write_text(yaml.safe_dump(queries))
    subprocess.run(["promtool", "check", "rules", work / "rules.yaml", work / "queries.yaml"], check=True,
                   stdout=subprocess.DEVNULL)

# The service's own settings are flags too.
settings = set(re.findall(r"^#?(OMNI_\w+)=", (root / "deploy/omni.conf").read_text(), re.M))
assert settings and settings <= known["serve"], settings - known["serve"]
for unit, verb in (("omni.service.in", "serve"), ("omni@.service.in", "node"), ("tls.conf", "serve"),
                   ("certificates.conf", "node")):
    named = set(re.findall(r"\b(OMNI_[A-Z_]+)=", (root / "deploy/systemd" / unit).read_text()))
    assert named <= known[verb], (unit, named - known[verb])
print("the manifests are whole")
