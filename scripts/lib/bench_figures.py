"""Which keys of a benchmark's JSON become records, under which names, in which units.

A benchmark's JSON is first made flat: the keys on the way to a number joined by points, an element of an array known
by its "case", or by "model", "cache_share" in per cent and "policy". Then each pattern that fits a whole key names its
figure."""

import re
from statistics import median

from measured import rounded

# (pattern, figure, unit, factor, significant digits)
GROUPS = {
    "decode": [
        (r"tok_per_s", "tok_per_s", "tok/s", 1, 3),
        (r"prefill_tok_per_s", "prefill_tok_per_s", "tok/s", 1, 3),
        (r"plain_tok_per_s", "plain_tok_per_s", "tok/s", 1, 3),
        (r"hop_us", "hop_us", "µs", 1, 2),
        (r"hops_per_token", "hops_per_token", "", 1, 2),
        (r"actor_share", "actor_share", "%", 100, 2),
    ],
    "blows": [
        (r"(\w+_(?:mended|gap|ready))_s", r"\1", "s", 1, 2),
    ],
    "mind": [
        (r"((?:near|far)\.)?(\w*_cost)", r"\1\2", "×", 1, 3),
        (r"((?:near|far)\.)?(\w*_gain)", r"\1\2", "%", 100, 2),
        (r"(\w+\.)?((?:full_)?ece(?:_temperature)?)", r"\1\2", "", 1, 3),
        (r"(\w+\.)?((?:plain_rule_)?aurc(?:_temperature)?|brier|accuracy|disagreement)", r"\1\2", "", 1, 4),
        (r"(\w+\.bits_per_byte)", r"\1", "", 1, 4),
        (r"(hdm_(?:exact|noisy)_\w+)", r"\1", "%", 100, 4),
        (r"(hdm_lookup_us_\w+|\w+_us_per_token)", r"\1", "µs", 1, 2),
        (r"(recall\.\w+\.\w+\.\w+)", r"\1", "%", 100, 3),
        (r"(spp_\w*(?:share|other_likeliest))", r"\1", "%", 100, 3),
        (r"(spp_\w+_bits_per_byte(?:_projected)?)", r"\1", "", 1, 4),
        (r"(spp_\w+_denied_mass(?:_projected)?)", r"\1", "", 1, 2),
        (r"(spp_denied_tokens|spp_words_not_denied)", r"\1", "", 1, 3),
        (r"(fmea_\w*(?:share|loss))", r"\1", "%", 100, 2),
        (r"(fmea_seconds)", r"\1", "s", 1, 2),
        (r"books\.(\w+)\.fmea_((?:ngram_)?gain|other_loss)", r"\1.\2", "%", 100, 2),
    ],
    "kernels": [
        (r"(\w+_share(?:_\w+)?|rows8_cost(?:_\w+)?|contention_loss)", r"\1", "", 1, 2),
        (r"(\w+_vs_\w+)", r"\1", "×", 1, 2),
        (r"token_(tok_per_s|roofline_tok_per_s)", r"token_\1", "tok/s", 1, 2),
        (r"((?:cache_)?read_gb_s)", r"\1", "GB/s", 1, 3),
        (r"(\w+_gweights_s(?:_\w+)?)", r"\1", "G weights/s", 1, 3),
        (r"(peer_\w+_us)", r"\1", "µs", 1, 4),
    ],
    "stream": [
        (r"cases\.(\w+)\.tok_per_s", r"\1.tok_per_s", "tok/s", 1, 3),
        (r"cases\.(\w+)\.(p50|p99)_ms", r"\1.\2_ms", "ms", 1, 3),
        (r"cases\.(\w+)\.disk_bytes_per_token", r"\1.disk_per_token", "MB", 1e-6, 3),
        (r"cases\.(\w+)\.memory_bytes_per_token", r"\1.memory_per_token", "GB", 1e-9, 2),
        (r"cases\.(\w+)\.hit_rate", r"\1.hits", "%", 100, 2),
        (r"cases\.(\w+)\.disk_bytes_per_s", r"\1.disk_speed", "GB/s", 1e-9, 2),
        (r"cases\.(\w+)\.memory_bytes_per_s", r"\1.memory_speed", "GB/s", 1e-9, 2),
        (r"cases\.(\w+)\.roofline_share", r"\1.share", "", 1, 2),
        (r"cases\.(\w+)\.memory_reached_share", r"\1.memory_reached", "", 1, 2),
        (r"cases\.(\w+)\.disk_reached_share", r"\1.disk_reached", "", 1, 2),
        (r"cases\.(\w+)\.stall_share", r"\1.stall", "%", 100, 2),
        (r"own_best_tok_per_s", "own_best.tok_per_s", "tok/s", 1, 3),
        (r"own_best_share", "own_best.share", "", 1, 2),
        (r"own_speedup", "own_speedup", "×", 1, 3),
        (r"format1\.own_tok_per_s", "format1.own.tok_per_s", "tok/s", 1, 3),
        (r"format1\.own_share", "format1.own.share", "", 1, 2),
        (r"format1\.own\.disk_bytes_per_token", "format1.own.disk_per_token", "MB", 1e-6, 3),
        (r"format1\.own\.hit_rate", "format1.own.hits", "%", 100, 2),
        (r"format1\.disk_bytes", "format1.model_size", "GB", 1e-9, 3),
        (r"cases\.(\w+)\.prediction_accuracy_(\d)", r"\1.guessed_\2", "%", 100, 2),
        (r"prediction_accuracy_(\d)", r"trained_guessed_\1", "%", 100, 2),
        (r"peak_rss_bytes", "peak_rss", "GB", 1e-9, 5),
        (r"ram_bytes", "ram", "GB", 1e-9, 5),
        (r"disk_bytes", "model_size", "GB", 1e-9, 3),
        (r"(shared|whole)_form\.tok_per_s", r"\1_form.tok_per_s", "tok/s", 1, 3),
        (r"(shared|whole)_form\.disk_bytes_per_token", r"\1_form.disk_per_token", "MB", 1e-6, 2),
        (r"(shared|whole)_form\.hit_rate", r"\1_form.hits", "%", 100, 2),
        (r"delta_speedup", "delta_speedup", "×", 1, 3),
    ],
    "cache": [
        (r"results\.(walk|walk_whole|recorded)\.(\d+)\.(\w+)\.hit_rate", r"\1_\2.\3.hits", "", 1, 3),
        (r"results\.(walk|walk_whole)\.(\d+)\.(\w+)\.bytes_per_token", r"\1_\2.\3.read", "MB", 1e-6, 3),
        (r"results\.(recorded)\.(\d+)\.(\w+)\.bytes_per_token", r"\1_\2.\3.read", "kB", 1e-3, 3),
        (r"results\.(walk|walk_whole|recorded)\.(\d+)\.(\w+)\.eviction_us", r"\1_\2.\3.eviction_us", "µs", 1, 2),
    ],
    "edit": [
        (r"(build_s|build_and_test_s)", r"\1", "s", 1, 2),
    ],
    "eval": [
        (r"bits_per_byte", "bits_per_byte", "bits per byte", 1, 4),
        (r"nats_per_token", "nats_per_token", "nats", 1, 4),
        (r"tokens", "tokens", "tokens", 1, 12),
    ],
    "swarm-matrix": [
        (r"(answers|tokens|wrong)", r"all.\1", "", 1, 12),
        (r"cells\.([a-z0-9-]+)\.(detection|next|gap)_(median|worst)_ms", r"\1.\2_\3", "ms", 1, 3),
        (r"cells\.([a-z0-9-]+)\.token_median_ms", r"\1.token", "ms", 1, 2),
        (r"cells\.([a-z0-9-]+)\.(repetitions|noticed|answers)", r"\1.\2", "", 1, 12),
    ],
    "serve": [
        (r"((?:stream|engine)\d+)_tok_per_s", r"\1_tok_per_s", "tok/s", 1, 3),
        (r"(stream\d+_speedup|stream16_p99_over_median)", r"\1", "×", 1, 3),
        (r"(stream\d+)_(median|p99)_ms", r"\1_\2", "ms", 1, 2),
        (r"overhead_(engine_)?ms", r"overhead_\1ms", "ms", 1, 2),
        (r"(idle_streams|idle_threads(?:_more)?)", r"\1", "", 1, 4),
        (r"idle_rss_mb", "idle_rss", "MB", 1, 3),
        (r"idle_others_p99_ms", "idle_others_p99", "ms", 1, 2),
        (r"idle_others_p99_change", "idle_others_p99_change", "%", 100, 2),
        (r"different", "different", "", 1, 3),
    ],
    "swarm": [
        (r"(rtt_overhead(?:_plain)?|rtt_p99|product)_us", r"\1_us", "µs", 1, 3),
        (r"(single_node_cost|steady_cost_3_nodes)", r"\1", "%", 100, 2),
        (r"(single_node_cost|steady_cost_3_nodes)_quartiles\.0", r"\1_from", "%", 100, 2),
        (r"(single_node_cost|steady_cost_3_nodes)_quartiles\.1", r"\1_to", "%", 100, 2),
        (r"migration_ms_per_layer(_worst)?", r"migration_ms_per_layer\1", "ms", 1, 2),
        (r"migration_(still_)?gap_ms_(median|worst)", r"migration_\1gap_\2", "ms", 1, 3),
        (r"migration_between_tokens_ms", "migration_between_tokens", "ms", 1, 2),
        (r"migration_(moves|layers_each)", r"migration_\1", "", 1, 3),
        (r"migration_(bytes|bytes_back)", r"migration_\1", "MB", 1e-6, 3),
        (r"migration_fetched_per_tile_byte", "migration_fetched_per_tile_byte", "", 1, 6),
        (r"pooled_memory_speedup", "pooled_memory_speedup", "×", 1, 3),
        (r"pooled_(one_)?tok_per_s", r"pooled_\1tok_per_s", "tok/s", 1, 3),
        (r"pooled_(experts|node)_bytes", r"pooled_\1", "GB", 1e-9, 2),
        (r"pooled_round_trip_us", "pooled_round_trip", "µs", 1, 3),
        (r"(steady|killed_worker|stopped_worker|standby)\.(median|worst)_ms", r"\1_\2", "ms", 1, 3),
    ],
    "tasks": [
        (r"synced_per_s_(1|64)", r"synced_per_s_\1", "tasks/s", 1, 3),
        (r"(fsync|submit_to_start)_ms(_after|_p99)?", r"\1_ms\2", "ms", 1, 3),
        (r"(recovery_ms|list_ms_worst|list_1000_ms|get_ms_worst)_1m", r"\1_1m", "ms", 1, 3),
    ],
    "pair": [
        (r"figures\.(\w+)\.median_ratio", r"\1", "", 1, 3),
    ],
}


def flat(value, at=""):
    """Numbers by the keys that lead to them."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, (int, float)):
        return {at: value}
    found = {}
    if isinstance(value, dict):
        items = value.items()
    else:
        items = [(element_key(v, i), v) for i, v in enumerate(value)]
    for key, element in items:
        found.update(flat(element, at + "." + key if at else key))
    return found


def element_key(element, index):
    if not isinstance(element, dict):
        return str(index)
    if "case" in element:
        return element["case"]
    if "policy" in element:
        return "%s.%02.0f.%s" % (element["model"], 100 * element["cache_share"], element["policy"])
    return str(index)


def figures(group, results):
    """[(figure, value, unit, note)] of one run, or the medians of several and the ends between which they lie."""
    runs, found = [flat(result) for result in results], []
    for key in runs[0]:
        for pattern, name, unit, factor, digits in GROUPS[group]:
            match = re.fullmatch(pattern, key)
            if not match:
                continue
            values = [factor * run[key] for run in runs if key in run]
            low, high = (str(rounded(end, digits)) for end in (min(values), max(values)))
            note = "median of %d runs, %s to %s" % (len(values), low, high) if len(values) > 1 else None
            found.append((match.expand(name), rounded(median(values), digits), unit, note))
            break
    return found
