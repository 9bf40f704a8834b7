"""Records of measured figures, docs/measured/*.json: what was measured, by which command, where, when, of which code.

A file holds one run's figures as an array with one record a line. A figure's name is the file's name, a point, and
what it is. A value is a number, or two of them: the lowest and the highest seen. Digits are kept as they were
written."""

import datetime
import json
import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path

FIELDS = ("name", "value", "unit", "command", "machine", "date", "commit")
NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+$")


class BadRecord(Exception):
    """A record that cannot be used; the message says where and why."""


def folder(root):
    return Path(root) / "docs" / "measured"


def load(root):
    """All records by name."""
    records = {}
    for path in sorted(folder(root).glob("*.json")):
        for record in load_file(path):
            records[record["name"]] = record
    return records


def load_file(path):
    try:
        found = json.loads(path.read_text(), parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise BadRecord("%s: not JSON: %s" % (path, error)) from error
    if not isinstance(found, list):
        raise BadRecord("%s: not an array of records" % path)
    names = set()
    for record in found:
        check(path, record)
        if record["name"] in names:
            raise BadRecord("%s: %s is there twice" % (path, record["name"]))
        names.add(record["name"])
    return found


def check(path, record):
    name = record.get("name", "a record without a name") if isinstance(record, dict) else "a value that is no record"
    missing = [field for field in FIELDS if field not in record]
    if missing:
        raise BadRecord("%s: %s has no %s" % (path, name, missing[0]))
    unknown = [field for field in record if field not in FIELDS + ("note",)]
    if unknown:
        raise BadRecord("%s: %s has an unknown field, %s" % (path, name, unknown[0]))
    if not NAME.match(name) or name.split(".")[0] != path.stem:
        raise BadRecord("%s: %s is no name of a figure in this file: %s.WORD" % (path, name, path.stem))
    value = record["value"]
    ends = value if isinstance(value, list) else [value]
    if not all(isinstance(end, Decimal) for end in ends) or len(ends) > 2 or (len(ends) == 2 and ends[0] > ends[1]):
        raise BadRecord("%s: %s: the value is neither a number nor [lowest, highest]" % (path, name))
    for field in FIELDS[2:] + (("note",) if "note" in record else ()):
        if not isinstance(record[field], str) or (field != "unit" and not record[field].strip()):
            raise BadRecord("%s: %s: %s is no text" % (path, name, field))
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]):
        raise BadRecord("%s: %s: the date is not written as 2026-01-31" % (path, name))


def save(root, stem, records):
    """Replaces a file of records; a crash leaves the old one or the new one."""
    lines = []
    for record in records:
        value = record["value"]
        number = "[%s]" % ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        fields = [(field, number if field == "value" else json.dumps(record[field], ensure_ascii=False))
                  for field in FIELDS + ("note",) if field in record]
        lines.append("{%s}" % ", ".join('"%s": %s' % field for field in fields))
    replace(folder(root) / (stem + ".json"), "[\n%s\n]\n" % ",\n".join(lines))


def replace(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def shown(value):
    """A value as pages print it: digits in groups of three, a range with a dash."""
    if isinstance(value, list):
        return " – ".join(shown(end) for end in value)
    whole, point, rest = format(value, "f").partition(".")
    return re.sub(r"(?<=\d)(?=(\d{3})+$)", " ", whole) + point + rest


def rounded(value, digits):
    """To so many significant digits, and no more than the number has before its point."""
    value = Decimal(repr(float(value)))
    if value == value.to_integral_value() and value.adjusted() < digits:
        return Decimal(int(value))
    exponent = value.adjusted() - digits + 1
    return Decimal(format(value.quantize(Decimal(1).scaleb(exponent)), "f"))


def machine():
    """This machine in words: processor, vector units, cores that may be used, memory."""
    info = Path("/proc/cpuinfo").read_text()

    def field(name):
        found = re.search(r"^%s\s*: (.*)$" % name, info, re.MULTILINE)
        return found.group(1).strip() if found else "unknown"
    flags = field("flags").split()
    units = [text for flag, text in (("avx2", "AVX2"), ("avx_vnni", "AVX-VNNI"), ("avx512f", "AVX-512"),
                                     ("avx512_vnni", "VNNI"), ("avx512_vbmi", "VBMI"), ("amx_tile", "AMX"))
             if flag in flags]
    memory = int(re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE).group(1))
    return "%s (family %s, model %s; %s), %d cores, %d GB" % (
        field("model name"), field("cpu family"), field("model"), ", ".join(units) or "no AVX2",
        len(os.sched_getaffinity(0)), round(memory * 1024 / 1e9))


def commit(root):
    """The code that is measured; BadRecord if it is not committed."""
    def git(*argv):
        return subprocess.run(["git", "-C", str(root)] + list(argv), stdout=subprocess.PIPE, check=True).stdout.decode()
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()
               if not line[3:].startswith("docs/") and not line.endswith(".md")]
    if changed:
        raise BadRecord("%s is not committed; a record names the commit that was measured" % changed[0])
    return git("rev-parse", "--short=9", "HEAD").strip()


def today():
    return datetime.date.today().isoformat()
