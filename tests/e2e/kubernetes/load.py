"""Clients of a swarm from outside: streams that begin anew as they end, and tasks; each answer compared with that of
one process."""
import base64
import concurrent.futures
import json
import subprocess
import tempfile
import threading
import time

STREAMS, TASKS, STREAM_TOKENS, TASK_TOKENS = 8, 200, 2500, 24
TEXTS = ["The sea", "It was a dark night", "The captain looked", "A letter came", "In the garden", "The old man said",
         "There was a ship", "She went"]


class Clients:
    def __init__(self, omni, model, cluster, certificates):
        self.omni, self.model = omni, model
        self.place = ["--cluster", cluster, "--certificates", certificates]
        self.wanted = {}
        for number, text in enumerate(TEXTS):
            self.wanted["stream", number] = self._here(self._stream(number))["text"]
            self.wanted["task", number] = self._here(["run", text, "-n", str(TASK_TOKENS), "--temp", "0"])["text"]

    def _stream(self, number):
        # Half of them greedily, half by chance.
        temperature = "0" if number % 2 == 0 else "0.8"
        return ["run", TEXTS[number], "-n", str(STREAM_TOKENS), "--temp", temperature, "--seed", str(number + 1),
                "--ignore-eos"]

    def _here(self, words):
        return json.loads(self.run(words + ["-m", self.model, "--json", "--log-level", "error"]))

    def run(self, words, **more):
        done = subprocess.run([self.omni, *words], capture_output=True, text=True, check=False, **more)
        if done.returncode != 0:
            raise RuntimeError(f"omni {' '.join(words[:3])}: {done.stderr.strip()}")
        return done.stdout

    def status(self):
        return json.loads(self.run(["cluster", "status", "--json", *self.place]))


class Load:
    """The streams go on until end(), which waits for them and for the tasks; then `report` says what became of all."""

    def __init__(self, clients, name):
        self.clients, self.name = clients, f"{name}-{int(time.time())}"
        self.report = {"answers": 0, "under_way": 0, "tokens": 0, "wrong": 0, "lost": 0, "reconnects": 0,
                       "longest_gap_s": 0.0, "tasks": 0}
        self.blow = None
        self.errors = []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self._stream, args=(i,), daemon=True) for i in range(STREAMS)]
        for thread in self.threads:
            thread.start()
        # Nearly all before the blow; the last of them are handed in while it is dealt.
        self._submit(TASKS - 10, "first")
        self.later = threading.Thread(target=self._submit_later)
        self.later.start()

    def _stream(self, number):
        while not self.over.is_set():
            begun = time.monotonic()
            try:
                answer = json.loads(self.clients.run(self.clients._stream(number) + ["--json", *self.clients.place]))
            except RuntimeError as error:
                with self.lock:
                    self.report["lost"] += 1
                    self.errors.append(str(error))
                continue
            with self.lock:
                self.report["answers"] += 1
                self.report["under_way"] += self.blow is not None and begun + 2 < self.blow
                self.report["tokens"] += answer["timings"].get("generated_tokens", STREAM_TOKENS)
                self.report["reconnects"] += answer["reconnects"]
                self.report["longest_gap_s"] = max(self.report["longest_gap_s"], answer["timings"]["longest_gap_s"])
                if answer["text"] != self.clients.wanted["stream", number]:
                    self.report["wrong"] += 1
                    self.errors.append(f"stream {number} said {answer['text'][-200:]!r}")

    def strike(self):
        """The blow comes now: answers that began two seconds before and are not over are those it strikes."""
        with self.lock:
            self.blow = time.monotonic()

    def _submit(self, count, key):
        children = [{"work": {"model": {"prompt": TEXTS[i % len(TEXTS)], "max_tokens": TASK_TOKENS, "temperature": 0}},
                     "labels": {"text": str(i % len(TEXTS))}, "context": self.name} for i in range(count)]
        spec = {"work": {"fan_out": {"children": children}}, "context": self.name + "-fan"}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(spec, file)
            file.flush()
            self.clients.run(["task", "submit", "--file", file.name, "--key", f"{self.name}-{key}",
                              *self.clients.place])

    def _submit_later(self):
        for number in range(10):
            try:
                self._submit(1, f"late-{number}")
            except RuntimeError as error:
                with self.lock:
                    self.errors.append(str(error))
            time.sleep(0.2)

    def tasks(self):
        listed = self.clients.run(["task", "list", "--context", self.name, "-n", "500", "--json", *self.clients.place])
        return json.loads(listed)["tasks"]

    def end(self, limit=240):
        self.over.set()
        for thread in self.threads + [self.later]:
            thread.join()
        until = time.monotonic() + limit
        while True:
            tasks = self.tasks()
            over = [t for t in tasks if t["status"] in ("SUCCEEDED", "FAILED", "CANCELLED")]
            if len(over) == TASKS or time.monotonic() > until:
                break
            time.sleep(1)
        self.report["tasks"] = sum(t["status"] == "SUCCEEDED" for t in tasks)

        def result(task):
            whole = json.loads(self.clients.run(["task", "get", task["id"], "--json", *self.clients.place]))
            text = base64.b64decode(whole.get("result", "")).decode()
            return text == self.clients.wanted["task", int(whole["labels"]["text"])]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            self.report["wrong"] += list(pool.map(result, tasks)).count(False)
        if self.report["tasks"] != TASKS:
            self.report["lost"] += TASKS - self.report["tasks"]
            self.errors.append(f"tasks: {[t['status'] for t in tasks].count('SUCCEEDED')} of {TASKS} succeeded")
        self.report["longest_gap_s"] = round(self.report["longest_gap_s"], 3)
        return self.report
