"""Parts of scripts/bench mind: the memories, the polytopes and adaptation. Each takes omni, which runs the program and
gives its JSON, and the measurement's settings."""

import csv
import json
import lzma
import os
import subprocess
import sys
import tempfile

SEPARATOR = b"\n<|endoftext|>\n"


def memory(omni, settings):
    """What the associative memory holds, and what a memory of contexts is worth on the second halves of the texts."""
    done = subprocess.run([settings.omni, "memory", "capacity", "--items", "200000", "--json"],
                          stdout=subprocess.PIPE, check=True)
    points = {point["items"]: point for point in json.loads(done.stdout)["points"]}
    keys = {}
    for items, name in ((10_000, "10k"), (100_000, "100k"), (200_000, "200k")):
        keys |= {f"hdm_exact_{name}": points[items]["exact"],
                 f"hdm_noisy_{name}": points[items]["noisy"],
                 f"hdm_exact_{name}_expected": points[items]["exact_expected"],
                 f"hdm_noisy_{name}_expected": points[items]["noisy_expected"],
                 f"hdm_lookup_us_{name}": points[items]["lookup_median_us"]}
    worth = omni(settings, "memory", "measure", settings.test)
    for name in ("context_memory_gain", "ngram_cache_gain", "memory_us_per_token", "ngram_us_per_token"):
        keys[name] = worth[name]
    return keys


NAMES = "Anna Bert Clara David Emma Frank Greta Henry Irene Jacob Karen Louis Maria Nathan Olga Peter".split()
PLACES = ("under the third stone", "behind the old clock", "in the blue kettle", "between two books")


def recall(omni, settings):
    """Of facts that were stored, the share that answers begin with: without the memory, and with it where perspectives
    that look at every token cannot decide, with the calibration's tau and with one that any disagreement passes; and
    the shares of tokens for which it was asked, and which it chose."""
    keys = {}
    with tempfile.TemporaryDirectory() as folder:
        memory_folder = os.path.join(folder, "memory")
        facts = os.path.join(folder, "facts.tsv")
        with open(facts, "w", encoding="utf-8") as file:
            for i, name in enumerate(NAMES):
                print(f"the key of {name} is\t{PLACES[i % len(PLACES)]}", file=file)
        subprocess.run([settings.omni, "memory", "import", facts, "--scope", "facts", "--memory", memory_folder],
                       stdout=subprocess.DEVNULL, check=True)
        asks = ["--memory-scope", "facts", "--memory", memory_folder]
        ways = {"without": [],
                "calibrated": ["--perspectives", "far,every=1", *asks],
                "any": ["--perspectives", "far,every=1,tau=0", *asks]}
        for temperature in (0, 1):
            for way, flags in ways.items():
                right = asked = recalled = tokens = 0
                for i, name in enumerate(NAMES):
                    said = omni(settings, "run", f"Nobody knows where the key of {name} is", "-n", 8, "--temp",
                                temperature, "--seed", i + 1, "--ignore-eos", *flags)
                    right += said["text"].startswith(" " + PLACES[i % len(PLACES)])
                    tokens += said["generated_tokens"]
                    asked += said["memory"]["asked"] if flags else 0
                    recalled += said["memory"]["recalled"] if flags else 0
                keys[f"recall.{way}.temp_{temperature}.right"] = right / len(NAMES)
                if flags:
                    keys[f"recall.{way}.temp_{temperature}.asked"] = asked / tokens
                    keys[f"recall.{way}.temp_{temperature}.recalled"] = recalled / tokens
    return keys


def safety(omni, settings):
    """Of a token of full size, the share that a projection takes: token_bench lies beside the program. With
    --safety-words and --behaviours, what a polytope that denies the words does to other books and to the behaviours."""
    bench = os.path.join(os.path.dirname(settings.omni), "token_bench")
    if not os.path.exists(bench):
        sys.exit(f"mind: there is no {bench}; build the target token_bench")
    done = subprocess.run([bench, "--json"], stdout=subprocess.PIPE, check=True)
    measured = json.loads(done.stdout)
    keys = {name: measured[name] for name in ("spp_share", "spp_inside_share")}
    if not settings.safety_words or not settings.behaviours:
        return keys
    with tempfile.TemporaryDirectory() as folder:
        file, texts = os.path.join(folder, "polytopes.omni"), os.path.join(folder, "behaviours.txt")
        with open(settings.behaviours, encoding="utf-8", newline="") as rows, open(texts, "wb") as to:
            to.write(SEPARATOR.join(row["Behavior"].encode() for row in csv.DictReader(rows)))
        built = omni(settings, "safety", "build", file, "--text", settings.valid, "--deny", settings.safety_words)
        keys |= {"spp_denied_tokens": built["denied_tokens"], "spp_words_not_denied": built["words_not_denied"]}
        for name, text, most in (("books", settings.test, 4096), ("behaviours", texts, 4096)):
            checked = omni(settings, "safety", "check", file, "--text", text, "--deny", settings.safety_words,
                           "--most-tokens", most)
            effect = checked["polytopes"]["general"]["text"]
            keys |= {f"spp_{name}_moved_share": effect["projected_share"],
                     f"spp_{name}_bits_per_byte": effect["bits_per_byte"],
                     f"spp_{name}_bits_per_byte_projected": effect["bits_per_byte_projected"],
                     f"spp_{name}_other_likeliest": effect["other_likeliest_share"],
                     f"spp_{name}_denied_mass": effect["denied_mass"],
                     f"spp_{name}_denied_mass_projected": effect["denied_mass_projected"]}
    return keys


def adaptation(omni, settings):
    """What learning from a book's first 20 kB is worth on the rest of it, and what it costs other books."""
    opened = lzma.open if settings.test.endswith(".xz") else open
    with opened(settings.test, "rb") as file:
        documents = file.read().split(SEPARATOR)
    numbers = [int(number) for number in settings.documents.split(",") if number]
    if any(not 1 <= number <= len(documents) for number in numbers):
        sys.exit(f"mind: --documents {settings.documents}: {settings.test} has {len(documents)} documents")
    chosen = [documents[number - 1] for number in numbers] or documents
    books = [book for book in settings.books.split(",") if book]
    if books and (len(books) != len(chosen) or len(set(books)) != len(books)):
        sys.exit(f"mind: --books {settings.books}: {len(chosen)} documents are measured; each wants a word of its own")
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(SEPARATOR.join(chosen))
        file.flush()
        most = ["--most-tokens", settings.most_tokens] if settings.most_tokens else []
        budget = ["--budget", settings.budget] if settings.budget else []
        measured = omni(settings, "adapt", "measure", file.name, "--other", settings.valid, *most, *budget)
    keys = {"fmea_gain": measured["gain"],
            "fmea_least_gain": measured["least_gain"],
            "fmea_valid_loss": measured["most_other_loss"],
            "fmea_seconds": measured["most_seconds"],
            "fmea_ngram_gain": measured["ngram_gain"],
            "fmea_ngram_reading_gain": measured["ngram_reading_gain"]}
    blocks = {share["block"] for document in measured["documents"] for share in document["shares"]}
    for block in sorted(blocks):
        shares = [share["share"] for document in measured["documents"] for share in document["shares"]
                  if share["block"] == block]
        keys[f"fmea_{block.replace(' ', '_')}_share"] = sum(shares) / len(measured["documents"])
    for book, document in zip(books, measured["documents"]):
        keys |= {f"books.{book}.fmea_gain": document["gain"],
                 f"books.{book}.fmea_other_loss": document["other_loss"],
                 f"books.{book}.fmea_ngram_gain": document["ngram_gain"]}
    return keys
