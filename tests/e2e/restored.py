"""What the tests that bring state back from a copy have in common: a cluster's tasks and texts, beside what one process
says."""
import base64
import json
import socket
import subprocess

from omni_serve import wait_for

TASKS, TASK_TOKENS = 40, 400
TEXTS = ["The sea", "It was a dark night", "The old man said", "In the garden"]


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


class Omni:
    """The program, the model, and the address of the cluster that is asked."""

    def __init__(self, program, model, cluster):
        self.program, self.model, self.cluster = program, model, cluster

    def run(self, *words):
        done = subprocess.run([self.program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"omni {' '.join(words[:3])}: {done.stderr}"
        return done.stdout

    def locally(self, text, tokens, *more):
        return json.loads(self.run("run", text, "-n", str(tokens), "--temp", "0", "-m", self.model, "--json",
                                   "--log-level", "error", *more))["text"]

    def submit(self, folder):
        """TASKS tasks, of the texts in turn."""
        children = [{"work": {"model": {"prompt": TEXTS[i % len(TEXTS)], "max_tokens": TASK_TOKENS, "temperature": 0}},
                     "labels": {"text": TEXTS[i % len(TEXTS)]}, "context": "kept"} for i in range(TASKS)]
        spec = folder / "spec.json"
        spec.write_text(json.dumps({"work": {"fan_out": {"children": children}}, "context": "whole"}))
        self.run("task", "submit", "--file", str(spec), "--cluster", self.cluster)

    def stream(self, text, tokens):
        return subprocess.Popen(
            [self.program, "run", text, "-n", str(tokens), "--temp", "0", "--ignore-eos", "--cluster", self.cluster,
             "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def check_stream(client, wanted, limit=300):
        """It was broken off, taken up again, and says what it would have said."""
        out, err = client.communicate(timeout=limit)
        assert client.returncode == 0, f"the answer did not go on: {err}"
        answer = json.loads(out)
        assert answer["text"] == wanted, "the answer is another"
        assert answer["reconnects"] >= 1, answer

    def tasks(self):
        listed = json.loads(self.run("task", "list", "--context", "kept", "-n", "500", "--json", "--cluster",
                                     self.cluster))
        return {t["id"]: t["status"] for t in listed["tasks"]}

    def succeeded(self):
        return list(self.tasks().values()).count("SUCCEEDED")

    def check_tasks(self, wanted):
        """All come to their end, and say what is wanted of their texts."""
        wait_for(lambda: set(self.tasks().values()) == {"SUCCEEDED"}, "all tasks to end")
        for task in self.tasks():
            whole = json.loads(self.run("task", "get", task, "--json", "--cluster", self.cluster))
            said = base64.b64decode(whole.get("result", "")).decode()
            text = whole["labels"]["text"]
            assert said == wanted[text], f"task {task} says {said!r}, not {wanted[text]!r}"
