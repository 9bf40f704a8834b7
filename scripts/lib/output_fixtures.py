"""What scripts/outputs feeds to the program: texts and checkpoints that are the same bytes on every machine."""

import json
import struct
from pathlib import Path

WORDS = (
    "the of and to a in that he was it his with as for had is but at on not be by they her she from all so him "
    "which sea ship captain night river great old house little morning town water long time came went said saw "
    "looked turned stood again before after upon under over through between light dark wind rain road door").split()


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n

    def signed(self, scale):
        """A float32 in (-scale, scale) whose bytes do not depend on the C library: a multiple of scale / 2^15."""
        return (self.below(65535) - 32767) / 32768 * scale


def text(seed, words):
    random, lines, line = Random(seed), [], []
    for _ in range(words):
        word = WORDS[random.below(len(WORDS))]
        if not line:
            word = word.capitalize()
        line.append(word)
        if random.below(11) == 0:
            lines.append(" ".join(line) + ".")
            line = []
    return "\n".join(lines) + "\n"


def documents(seed, count, words):
    return "<|endoftext|>\n".join(text(seed + i, words) for i in range(count))


def write_safetensors(path, tensors):
    """tensors: name -> (shape, float32 bytes). Laid out by name, without a gap; the header is padded to 64."""
    header, at = {}, 0
    for name in sorted(tensors):
        shape, data = tensors[name]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-(8 + len(head)) % 64)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for name in sorted(tensors):
            out.write(tensors[name][1])


def cell_centres(lattice):
    x, y, z = lattice
    cells = [((i + 0.5) / x, (j + 0.5) / y, (k + 0.5) / z) for k in range(z) for j in range(y) for i in range(x)]
    return struct.pack("<%df" % (3 * len(cells)), *(v for cell in cells for v in cell))


def odd_checkpoint(path, tokenizer):
    """A small checkpoint in which nothing divides anything; the weights are random."""
    c = {
        "preset": "odd", "layers": 5, "attention_period": 3, "d": 70, "r": 5, "f": 130, "heads": 5, "kv_heads": 1,
        "window": 7, "vocab": 4096, "lattice": [3, 2, 1], "region": [1, 2, 1], "own_neurons": 66, "key_scale": True,
        "readout_norm": True, "decay_floor": -5.0, "state_norm_period": 64, "rope_theta": 10000.0}
    random, tensors = Random(17), {}

    def make(name, shape, scale, mean=0.0):
        count = 1
        for n in shape:
            count *= n
        values = (mean + random.signed(scale) for _ in range(count))
        tensors[name] = (shape, struct.pack("<%df" % count, *values))

    d, f, own, head, weight = c["d"], c["f"], c["own_neurons"], c["d"] // c["heads"], 0.2
    make("embed", [c["vocab"], d], weight)
    make("norm_out", [d], 0.1, 1.0)
    for layer in range(c["layers"]):
        p = "layers.%d." % layer
        make(p + "norm1", [d], 0.1, 1.0)
        make(p + "norm2", [d], 0.1, 1.0)
        if layer % c["attention_period"] == c["attention_period"] - 1:
            for name, shape in (("wq", [d, d]), ("wk", [c["kv_heads"] * head, d]), ("wv", [c["kv_heads"] * head, d]),
                                ("wo", [d, d]), ("gate", [f, d]), ("up", [f, d]), ("down", [d, f])):
                make(p + name, shape, weight)
            continue
        make(p + "wp", [d, d], 0.02)
        make(p + "bp", [d], 0.8, 1.0)
        for name, shape in (("wk", [c["r"], d]), ("wq", [c["r"], d]), ("wv", [d, d]), ("wo", [d, d])):
            make(p + name, shape, weight)
        make(p + "norm_readout", [d], 0.1, 1.0)
        make(p + "route", [3, d], 2 * weight)
        tensors[p + "positions"] = ([6, 3], cell_centres(c["lattice"]))
        for part in ("gate", "up", "down"):
            make(p + "tied." + part, [3, f - own, d], weight)
            make(p + "own." + part, [6, own, d], weight)
    write_checkpoint(path, c, tokenizer, tensors)


def write_checkpoint(path, config, tokenizer, tensors):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.omni").write_bytes(Path(tokenizer).read_bytes())
    write_safetensors(path / "model.safetensors", tensors)
