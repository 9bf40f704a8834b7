#!/usr/bin/env python3
"""Draws docs/plots/adaptation.svg from docs/measured/mind-books-*.json: of each book how much less the loss on its rest
is with an adapter that was learned from its beginning, and how much more that of other books is.

usage: adaptation_plot.py [--root ROOT] [--check]"""

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import measured  # noqa: E402

KINDS = (("untried", "authors of whom the model has read nothing"),
         ("tried", "such authors too; the settings were tried on these"),
         ("read", "authors whom the model has read"))
BARS = (("gain", "#2b6cb0", "less loss on the rest of the book"),
        ("other_loss", "#dd6b20", "more loss on other books"))
LEFT, WIDTH, BAR, ROW, HEAD = 190, 420, 8, 24, 30


def rows(records, kind):
    """[(book, {what: per cent})], the one that gains most first."""
    books = {}
    for name, record in records.items():
        stem, *path = name.split(".")
        if stem == "mind-books-" + kind and len(path) == 2:
            books.setdefault(path[0], {})[path[1]] = record["value"]
    return sorted(books.items(), key=lambda book: -book[1]["gain"])


def draw(records):
    groups = [(text, rows(records, kind)) for kind, text in KINDS]
    most = int(max(values["gain"] for _, books in groups for _, values in books)) + 1
    bottom = 30 + sum(HEAD + ROW * len(books) for _, books in groups)
    scale = WIDTH / most
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">'
           % (LEFT + WIDTH + 50, bottom + 46),
           '<rect width="100%" height="100%" fill="#fff"/>']
    for at, (_, colour, text) in enumerate(BARS):
        x = LEFT + 220 * at
        svg.append('<rect x="%d" y="10" width="10" height="10" fill="%s"/><text x="%d" y="19">%s</text>'
                   % (x, colour, x + 15, text))
    for percent in range(most + 1):
        x = LEFT + percent * scale
        svg.append('<path d="M%.1f 30V%d" stroke="#e4e4e4"/><text x="%.1f" y="%d" text-anchor="middle">%d</text>'
                   % (x, bottom, x, bottom + 16, percent))
    svg.append('<text x="%.1f" y="%d" text-anchor="middle">per cent</text>' % (LEFT + WIDTH / 2, bottom + 36))
    y = 30
    for text, books in groups:
        svg.append('<text x="%d" y="%d" font-weight="bold">%s</text>' % (LEFT + 4, y + 20, text))
        y += HEAD
        for book, values in books:
            svg.append('<text x="%d" y="%d" text-anchor="end">%s</text>'
                       % (LEFT - 8, y + 13, book.replace("_", " ")))
            for at, (what, colour, _) in enumerate(BARS):
                top, long = y + 1 + at * (BAR + 1), max(0, float(values[what])) * scale
                svg.append('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' % (LEFT, top, long, BAR, colour))
                svg.append('<text x="%.1f" y="%d" font-size="9">%s</text>'
                           % (LEFT + long + 4, top + BAR, measured.shown(values[what])))
            y += ROW
    return "\n".join(svg) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("--root", default=str(Path(__file__).resolve().parents[2]))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the plot is not of the records")
    args = parser.parse_args()
    path = Path(args.root) / "docs" / "plots" / "adaptation.svg"
    drawn = draw(measured.load(args.root))
    if not args.check:
        measured.replace(path, drawn)
    elif not path.is_file() or path.read_text() != drawn:
        sys.exit("%s is not what the records give; run scripts/lib/adaptation_plot.py" % path)


if __name__ == "__main__":
    main()
