#!/usr/bin/env python3
"""What the products of the device's code can reach at most, from the instructions that nvcc makes of them.

usage: device_roofline.py PTX, of `nvcc -std=c++20 -O3 -fmad=false -arch=sm_90 -I. -ptx kernels/op.cu -o PTX`

Of each kernel: the loop that its codes go through, its instructions for each byte of codes, and the share of a card's
memory speed at which they are all issued, if a multiprocessor issues 128 lanes of them a clock and 64 of those that
work on integers. Projected: nothing here was run."""

import re
import sys

# memory in bytes a second, multiprocessors, clock
CARDS = (("300 GB/s", 300e9, 20, 1.7e9), ("3 TB/s", 3e12, 132, 1.7e9))
ISSUED, INTEGER = 128, 64
KERNELS = (
    ("TwoBitKernelILi1E", "two-bit product, one row"),
    ("GateUpKernelILi1E", "shared gate and up, one row"),
    ("ExpertGateUpKernelILi1E", "expert gate and up, one row"),
    ("ExpertDownKernelILi1E", "expert down, one row"),
    ("Int8KernelILi1E", "logits, one row"),
    ("TwoBitKernelILi8E", "two-bit product, eight rows"),
    ("TernaryKernelILi8E", "ternary product, eight rows"),
)
FLOATS_AND_MEMORY = re.compile(r"^(ld|st|bra|fma|mul\.f|add\.f|cvt|bar|ret|shfl|redux)")


def loops(body):
    """The instructions between a label and a branch back to it, for every such branch."""
    at = {line[:-1].lstrip("$"): i for i, line in enumerate(body) if line.endswith(":")}
    for i, line in enumerate(body):
        match = re.search(r"bra(?:\.uni)?\s+\$?(\w+);", line)
        if match and at.get(match.group(1), i) < i:
            yield [x for x in body[at[match.group(1)]:i + 1] if x.endswith(";")]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    text = open(sys.argv[1], encoding="ascii").read()
    print("%-28s %10s %10s %10s  %s" % ("", "for each", "of codes", "limit, as a share of",
                                        " ".join("%9s" % card[0] for card in CARDS)))
    print("%-28s %10s %10s" % ("", "all", "integer"))
    for name, words in KERNELS:
        match = re.search(r"\.entry \w*?\d+" + name + r"\w*\(.*?\n\{\n(.*?)\n\}\n", text, re.S)
        if not match:
            sys.exit("%s: no kernel %s" % (sys.argv[1], name))
        body = [line.strip() for line in match.group(1).split("\n") if line.strip()]
        found = [loop for loop in loops(body) if any("dp4a" in line for line in loop)]
        if not found:
            sys.exit("%s: no loop of products in %s" % (sys.argv[1], name))
        loop = min(found, key=len)
        codes = 16 * sum(bool(re.search(r"ld\.global\.cs\.v4", line)) for line in loop)
        whole = [re.sub(r"^@!?%p\d+\s+", "", line) for line in loop]
        integer = sum(not FLOATS_AND_MEMORY.match(line) for line in whole)
        shares = []
        for _, speed, processors, clock in CARDS:
            lanes = max(len(whole) / ISSUED, integer / INTEGER)
            shares.append(min(1.0, processors * clock * codes / lanes / speed))
        print("%-28s %10.2f %10.2f %21s %s" % (words, len(whole) / codes, integer / codes, "",
                                               " ".join("%8.0f%%" % (100 * share) for share in shares)))


if __name__ == "__main__":
    main()
