"""An overlay as the test gives it to its cluster: images of this version, volumes in folders of this machine, doors for
clients outside, and so little of everything that two cores bear it."""
import json
import pathlib

SETS = {"swarm": {"omni-coordinator": 1, "omni-worker": 3},
        "swarm-ha": {"omni-coordinator": 2, "omni-worker": 3, "omni-etcd": 3}}


def claims_of(overlay):
    return [f"state-{name}-{i}" for name, count in SETS[overlay].items() for i in range(count)]


def write_overlay(root, work, overlay, version, tag=None):
    """Writes WORK/OVERLAY/kustomization.yaml; returns the folders of its volumes."""
    folder = work / overlay
    folder.mkdir(parents=True, exist_ok=True)
    deploy = pathlib.Path(__import__("os").path.relpath(root / "deploy/kubernetes", folder))
    volumes, folders = [], []
    for claim in claims_of(overlay):
        path = work / "volumes" / overlay / claim
        path.mkdir(parents=True, exist_ok=True)
        folders.append(path)
        volumes.append({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{overlay}-{claim}"},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                     "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": str(path)},
                     "claimRef": {"namespace": "omni", "name": claim}}})
    outside = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "omni-outside", "namespace": "omni"},
        "spec": {"type": "NodePort",
                 "selector": {"app.kubernetes.io/name": "omni", "app.kubernetes.io/component": "coordinator"},
                 "ports": [{"name": "grpc", "port": 7300, "targetPort": "grpc"},
                           {"name": "https", "port": 443, "targetPort": "https"}]}}
    (folder / "more.json").write_text("\n---\n".join(json.dumps(o) for o in [*volumes, outside]))
    small = [{"op": "add", "path": "/spec/template/spec/containers/0/env/-",
              "value": {"name": "OMNI_THREADS", "value": "1"}},
             {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests",
              "value": {"cpu": "10m", "memory": "64Mi"}}]
    # The coordinator keeps no region: all of them are the workers', whose loss is then felt.
    none = [{"op": "add", "path": "/spec/template/spec/containers/0/env/-",
             "value": {"name": "OMNI_OFFER_RAM", "value": "1"}}]
    patches = [{"target": {"kind": "StatefulSet", "name": "omni-(coordinator|worker)"}, "patch": json.dumps(small)},
               {"target": {"kind": "StatefulSet", "name": "omni-coordinator"}, "patch": json.dumps(none)}]
    (folder / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [str(deploy / "overlays" / overlay), "more.json"],
        "components": [str(deploy / "components/kubernetes-1.20")],
        "images": [{"name": "localhost/omni", "newTag": tag or version},
                   {"name": "localhost/omni-mini", "newTag": version},
                   {"name": "localhost/omni-etcd", "newTag": version}],
        "patches": patches}))
    return folders
