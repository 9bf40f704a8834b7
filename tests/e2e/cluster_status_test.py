#!/usr/bin/env python3
"""What `omni serve` tells of its cluster: a node that joins, a region that moves to it, what the link carries, and what
happens when the node is killed; and that servers tell all that alerts and the dashboard ask for.
usage: cluster_status_test.py OMNI MODEL"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

from omni_serve import OmniServe, wait_for

REGION = 3
MONITORING = pathlib.Path(__file__).resolve().parents[2] / "deploy/kubernetes/components/monitoring"


def check_monitoring(metrics):
    """What alerts and the dashboard ask for is among what servers tell."""
    told = {name + end for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", metrics, re.M)
            for end in (("", "_bucket", "_sum", "_count") if kind in ("histogram", "summary") else ("",))}
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    asked = " ".join(t["expr"] for p in panels for t in p["targets"]) + (MONITORING / "alerts.yaml").read_text()
    used = set(re.findall(r"\b(?:omni|process)_\w+", asked))
    assert len(used) > 20, used
    assert used <= told, f"alerts or the dashboard ask for {sorted(used - told)}, which nobody tells"


def least_memory(omni, model):
    """With which the model is read from its disk."""
    refused = subprocess.run([omni, "serve", "-m", model, "--ram", "1M", "-t", "2", "--listen", "127.0.0.1:0"],
                             capture_output=True, text=True, check=False).stderr
    return str(int(re.search(r"the least that works is (\d+) MiB", refused)[1]) + 1) + "M"


def events_of(serve):
    """The log's lines that the status stream tells whoever comes."""
    with urllib.request.urlopen(f"http://{serve.address}/v1/status/stream", timeout=60) as stream:
        kind = ""
        for line in stream:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                kind = text[7:]
            if text.startswith("data: "):
                # Lines of the log come before the moment.
                return [entry["event"] for entry in json.loads(text[6:])] if kind == "log" else []


def main():
    omni, model = sys.argv[1:]
    with OmniServe(omni, model) as serve, tempfile.TemporaryDirectory() as folder:
        def status():
            return json.loads(serve.ask("GET", "/v1/status")[1])

        def cluster_with(what, why):
            return wait_for(lambda: (lambda c: c if c and what(c) else None)(status()["cluster"]), why)

        def node(cluster, name):
            return next((n for n in cluster["nodes"] if n["node"] == name), None)

        cluster_with(lambda c: len(c["nodes"]) == 1 and c["nodes"][0]["self"], "the cluster of one node")
        second = subprocess.Popen(
            [omni, "node", "-m", model, "--name", "second", "--listen", "127.0.0.1:0", "--join", serve.grpc],
            env={**os.environ, "XDG_STATE_HOME": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            cluster_with(lambda c: (node(c, "second") or {}).get("state") == "up", "the second node")
            subprocess.run([omni, "cluster", "place", str(REGION), "second", "--cluster", serve.grpc], check=True,
                           stdout=subprocess.DEVNULL)
            moved = cluster_with(lambda c: c["regions"][REGION]["owner"] == "second", "the move")
            assert moved["regions"][REGION]["pinned"] == "second", moved["regions"][REGION]
            body = {"prompt": "The sea", "max_tokens": 40, "ignore_eos": True}
            wait_for(lambda: serve.ask("POST", "/v1/completions", body)[0] == 200, "an answer")
            used = cluster_with(lambda c: node(c, "second")["requests"] > 0, "requests over the link")
            assert node(used, "second")["sent_bytes"] > 0 and node(used, "second")["rtt_p50_us"] >= 0
            metrics = serve.ask("GET", "/metrics")[1]
            for name in ("omni_link_sent_bytes_total", "omni_link_requests_total", "omni_node_up"):
                assert f'{name}{{node="second"}}' in metrics, f"{name} is not there"
            with OmniServe(omni, model, "--ram", least_memory(omni, model)) as streamed:
                check_monitoring(metrics + streamed.ask("GET", "/metrics")[1])
            assert "omni_cluster_coordinates 1\n" in metrics
            assert 'omni_cluster_migrations_total ' in metrics
        finally:
            second.kill()
            second.wait()
        cluster_with(lambda c: node(c, "second")["state"] in ("down", "gone"), "the loss of the node")
        after = cluster_with(lambda c: c["regions"][REGION]["owner"] != "second", "another owner")
        assert after["regions"][REGION]["owner"] == after["coordinator"], after["regions"][REGION]
        events = events_of(serve)
        for event in ("node_up", "region_placed", "node_lost"):
            assert event in events, f"{event} is not among {events}"
        assert serve.end() == 0
    print("a node came, had a region, answered and was lost, and each was told")


main()
