#!/usr/bin/env python3
"""Debian's Prometheus scrapes `omni serve`: it finds the target up, its log has no warning, and promtool has nothing
to say of the metrics. usage: prometheus_test.py OMNI MODEL"""
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

from omni_serve import OmniServe, need, wait_for

# What must be there whatever is served and whoever has asked.
EXPECTED = """
omni_build_info omni_model_info omni_tokens_total omni_prompt_tokens_total omni_generated_tokens_total
omni_time_to_first_token_seconds omni_time_between_tokens_seconds omni_sessions_total omni_sessions_active
omni_sessions_queued omni_sessions_places omni_steps_total omni_step_seconds_total omni_compute_seconds_total
omni_rows_total omni_expert_rows_total omni_region_requests_total omni_region_compute_seconds_total
omni_region_restarts_total omni_region_retries_total omni_region_timeouts_total omni_failed_jobs_total
omni_http_requests_total omni_http_request_duration_seconds omni_http_connections omni_clients_gone_total
omni_status_watchers omni_status_moments_total omni_ready omni_cluster_coordinates process_resident_memory_bytes
process_cpu_seconds_total process_start_time_seconds process_open_fds process_max_fds
""".split()


def check_metrics(text):
    families = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    missing = [name for name in EXPECTED if name not in families]
    assert not missing, f"missing: {missing}"
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and checked.stdout + checked.stderr == "", \
        f"promtool: {checked.stdout}{checked.stderr}"


def ask(address, path, **query):
    url = f"http://{address}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]


def scrape(serve, folder):
    config, log = f"{folder}/prometheus.yml", f"{folder}/log"
    with open(config, "w") as file:
        file.write("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: omni\n  static_configs:\n"
                   f"  - targets: ['{serve.address}']\n")
    with open(log, "w") as out:
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             "--web.listen-address=127.0.0.1:0"], stdout=out, stderr=out)
    try:
        def listening():
            assert prometheus.poll() is None, open(log).read()
            return re.search(r'msg="Listening on" address=(\S+)', open(log).read())
        address = wait_for(listening, "Prometheus")[1]

        def tokens():
            try:
                result = ask(address, "/api/v1/query", query='omni_tokens_total{of="answer"}')["result"]
            except OSError:  # it is starting
                return None
            return result and float(result[0]["value"][1]) == 20
        wait_for(tokens, "a scrape")
        targets = ask(address, "/api/v1/targets")["activeTargets"]
        assert [t["health"] for t in targets] == ["up"], targets
        lines = [line for line in open(log) if re.search(r"level=(warn|error)", line)]
        assert not lines, "".join(lines)
    finally:
        prometheus.terminate()
        prometheus.wait(60)


def main():
    need("prometheus", "promtool")
    omni, model = sys.argv[1:]
    with OmniServe(omni, model) as serve, tempfile.TemporaryDirectory() as folder:
        body = {"prompt": "The sea", "max_tokens": 20, "ignore_eos": True}
        # A server on a busy machine may lead no more for a moment, and then counts anew.
        wait_for(lambda: serve.ask("POST", "/v1/completions", body)[0] == 200, "an answer")
        status, text = serve.ask("GET", "/metrics")
        assert status == 200, text
        check_metrics(text)
        scrape(serve, folder)
        assert serve.end() == 0
    print(f"{len(EXPECTED)} families and more; Prometheus took them without a word")


main()
