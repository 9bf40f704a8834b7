#!/usr/bin/env python3
"""man_pages.py OMNI FOLDER: writes omni.1 and a page omni-VERB.1 for every verb, from what --help prints.

The date is SOURCE_DATE_EPOCH's, if that is set, else none is given: the same program gives the same bytes.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys


def roff(text):
    """A line of text, with nothing in it that roff would take for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = re.sub(r"[^\x00-\x7f]", lambda c: f"\\[u{ord(c.group()):04X}]", text)
    return "\\&" + text if text.startswith((".", "\\(aq")) else text


def entries(lines):
    """What CLI11 lists: '  -n,--number N (Env:X)   text', with more text further to the right."""
    found = []
    for line in lines:
        if not line.strip():
            continue
        if re.match(r"  \S", line):
            # A long name has a single space behind it, and then its variable ends it.
            split = re.match(r"(.*?\(Env:\w+\))\s+(.*)", line[2:]) or re.match(r"(.*?\S)\s{2,}(\S.*)", line[2:])
            name, text = split.groups() if split else (line[2:].strip(), "")
            found.append((name, [text] if text else []))
        else:
            found[-1][1].append(line.strip())
    return found


def listed(lines):
    out = []
    for name, text in entries(lines):
        out += [".TP", ".B " + roff(name), roff(" ".join(text)) or "\\&"]
    return out


def sections(text):
    """[(title, lines)]: a title is a line of words with a colon at its end."""
    found = [("", [])]
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][A-Za-z ]*:", line):
            found.append((line[:-1], []))
        else:
            found[-1][1].append(line)
    return found


def page(name, text, version, see):
    head, *rest = sections(text)
    said = [line for line in head[1] if line.strip() and not line.startswith("Usage:")]
    usage = [line.removeprefix("Usage:").strip() for line in head[1] if line.startswith("Usage:")]
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).date().isoformat() if epoch else ""
    short = re.split(r"\.(?:\s|$)", said[0])[0].removeprefix("Omni ")
    out = [f'.TH {name.upper().replace("-", chr(92) + "-")} 1 "{date}" "omni {version}" "User Commands"', ".SH NAME",
           f"{roff(name)} \\- {roff(short[0].lower() + short[1:])}", ".SH SYNOPSIS"]
    out += [".B " + roff(line) for line in usage]
    out += [".SH DESCRIPTION"] + [roff(line) for line in said]
    for title, lines in rest:
        out.append(".SH " + title.upper())
        if title in ("Options", "Positionals", "Subcommands"):
            after = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
            out += listed(lines[:after])
            if any(line.strip() for line in lines[after:]):
                out += [".SH NOTES", ".nf"] + [roff(line) for line in lines[after:] if line.strip()] + [".fi"]
        else:
            out += [".nf"] + [roff(line) if line.strip() else ".sp" for line in lines] + [".fi"]
    out += [".SH SEE ALSO", ", ".join(f"\\fB{roff(other)}\\fR(1)" for other in see if other != name)]
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    omni, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)

    def ask(*words):
        return subprocess.run([omni, *words], check=True, capture_output=True, text=True).stdout

    version = ask("--version").split()[-1]
    text = ask("--help")
    verbs = [name.split()[0] for title, lines in sections(text) if title == "Subcommands"
             for name, _ in entries([line for line in lines if line.startswith("  ")])]
    pages = ["omni"] + ["omni-" + verb for verb in verbs if verb != "train"]
    (folder / "omni.1").write_text(page("omni", text, version, pages))
    for name in pages[1:]:
        (folder / (name + ".1")).write_text(page(name, ask(name.removeprefix("omni-"), "--help"), version, ["omni"]))


main()
