#!/usr/bin/env python3
"""plain_image.py ARCHIVE SECONDS: takes from a docker archive what is by chance (the name and number of the container
that it was made in, what the image below it was called, times), so that the same content is the same bytes. Prints the
image's id."""
import hashlib
import io
import json
import os
import sys
import tarfile

archive, seconds = sys.argv[1], int(sys.argv[2])
with tarfile.open(archive) as old:
    manifest = json.load(old.extractfile("manifest.json"))
    config = json.load(old.extractfile(manifest[0]["Config"]))
    for chance in ("container", "container_config", "parent"):
        config.pop(chance, None)
    for step in config.get("history", []):
        step.pop("comment", None)
    config["config"].pop("Hostname", None)
    text = json.dumps(config, sort_keys=True).encode()
    image = hashlib.sha256(text).hexdigest()
    manifest[0]["Config"] = image + ".json"
    with tarfile.open(archive + ".new", "w", format=tarfile.USTAR_FORMAT) as new:
        def add(name, size, data):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, seconds, 0o644
            new.addfile(info, data)
        for layer in sorted(set(manifest[0]["Layers"])):
            member = old.getmember(layer)
            add(layer, member.size, old.extractfile(member))
        add(manifest[0]["Config"], len(text), io.BytesIO(text))
        listed = json.dumps(manifest, sort_keys=True).encode()
        add("manifest.json", len(listed), io.BytesIO(listed))
os.replace(archive + ".new", archive)
print("sha256:" + image)
