#!/usr/bin/env python3
"""The status page in headless Chromium (page_test.mjs). usage: page_test.py OMNI MODEL FOLDER
FOLDER, in the build folder, gets the browser's driver from npm and the screenshots."""
import os
import shutil
import signal
import subprocess
import sys

from omni_serve import OmniServe, need, skip

DRIVER = "playwright-core@1.65.1"


def install(folder):
    os.makedirs(folder, exist_ok=True)
    package = f"{folder}/node_modules/playwright-core/package.json"
    if os.path.exists(package) and f'"version": "{DRIVER.split("@")[1]}"' in open(package).read():
        return
    try:
        done = subprocess.run(["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", DRIVER],
                              capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        skip(f"npm has not installed {DRIVER} within three minutes")
    if done.returncode != 0:
        skip(f"npm cannot install {DRIVER}: {done.stderr.strip().splitlines()[-1:]}")


def main():
    need("chromium", "node", "npm")
    omni, model, folder = sys.argv[1:]
    install(folder)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page_test.mjs")
    with OmniServe(omni, model) as serve:
        page = subprocess.Popen(["node", script, f"http://{serve.address}/", folder, shutil.which("chromium")],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # What the page's test wants done to the server, one word a line; all else is for people.
        deeds = {
            "stop": lambda: serve.process.send_signal(signal.SIGSTOP),
            "go on": lambda: serve.process.send_signal(signal.SIGCONT),
            "restart": serve.restart,
            "hand in": lambda: subprocess.run(
                [omni, "task", "submit", "command", "sort", "--cluster", serve.grpc], check=True,
                stdout=subprocess.DEVNULL),
        }
        for line in page.stdout:
            word = line.strip()
            if word in deeds:
                deeds[word]()
                page.stdin.write("done\n")
                page.stdin.flush()
            else:
                print(word, flush=True)
        code = page.wait()
        if code == 0:
            assert serve.end() == 0, "a page that watches must not keep the server from ending"
    sys.exit(code)


main()
