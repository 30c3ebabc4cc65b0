"""Tables and a chart from the result files: ``python -m benchmarks.report``.

Rewrites what stands between the markers of benchmarks/README.md and docs/formats.md, and draws
benchmarks/results/sampling.png.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import ROOT
from benchmarks.peers.rounds import RESULTS

README = ROOT / "benchmarks" / "README.md"
FORMATS = ROOT / "docs" / "formats.md"
SHOWN = ("random_256", "random_4096", "iterate_256", "slices_16x16", "slices_4x64", "nstep_3", "prioritized", "stack_3")
LABELS = {
    "rlhive": "**RLHive**",
    "rlhive:batches": "**RLHive**, batches of 1,000",
    "packed": "packed floor",
    "numpy": "numpy, 5 gathers",
    "torchrl": "TorchRL memmap",
    "cpprb": "cpprb",
    "d3rlpy": "d3rlpy",
    "minari": "Minari HDF5",
    "minari_arrow": "Minari Arrow",
    "datasets": "datasets, torch format",
    "lerobot": "LeRobotDataset",
    "lerobot_images": "LeRobotDataset, PNG",
}


def main() -> None:
    """Rewrite the tables, draw the chart."""
    text = README.read_text(encoding="utf-8")
    sampling = sorted(
        map(_read, RESULTS.glob("sampling-*.json")), key=lambda one: (one["kind"] == "pixels", one["size"])
    )
    if sampling:
        plain = [one for one in sampling if one["kind"] != "pixels"]
        text = _between(text, "sampling", "\n\n".join([*map(sampling_tables, sampling), *growth(plain)]))
        print("\n\n".join(growth(plain)))
        draw(plain, RESULTS / "sampling.png")
    if (RESULTS / "export.json").exists():
        text = _between(text, "export", export_tables(_read(RESULTS / "export.json")))
    if (RESULTS / "envs.json").exists():
        text = _between(text, "envs", envs_table(_read(RESULTS / "envs.json")))
    README.write_text(text, encoding="utf-8")
    if (RESULTS / "import.json").exists():
        formats = FORMATS.read_text(encoding="utf-8")
        FORMATS.write_text(_between(formats, "import", import_table(_read(RESULTS / "import.json"))), encoding="utf-8")


def sampling_tables(content: dict[str, Any]) -> str:
    """Return Markdown: the time of a batch, opening, memory; or pictures."""
    rows = content["rows"]
    if content["kind"] == "pixels":
        raw = content["stores"][0]["raw_bytes"] / 1e6
        parts = ["### Pictures, 128 by 128, random batches of 64", _machine(content)]
        parts.append(
            "RLHive's transitions have two pictures each, this one and the next, LeRobotDataset's items one. In "
            "brackets how many times the frames/s of the best LeRobotDataset. RLHive decodes with as many threads as "
            "there are cores."
        )
        parts.append(
            _table(
                ["", "transitions/s", "frames/s", f"version on disk ({raw:.0f} MB of values)", "read from"],
                _picture_rows(content),
            )
        )
    else:
        parts = [f"### {content['size']:,} transitions", _machine(content)]
        parts.append("Median time of one batch; in brackets how many times longer than RLHive's.")
        parts.append(_table(["", *(_title(name) for name in SHOWN), "made by"], _batch_rows(rows)))
        parts.append(
            "CPU time of the same, all threads but no loader processes: others on the machine disturb it less."
        )
        parts.append(_table(["", *(_title(name) for name in SHOWN)], (row[:-1] for row in _batch_rows(rows, "cpu"))))
        parts.append(
            _table(["", "open, warm", "open, cold", "peak memory", "its own, after opening"], _open_rows(rows))
        )
    left = [f"- {LABELS[row['peer']]}: {row['unavailable']}" for row in content["stores"] if "unavailable" in row]
    wrong = [f"- † {_name(row)}, {row['workload']}: {row['failed']}" for row in rows if "failed" in row]
    return "\n\n".join([*parts, *(["\n".join(left + wrong)] if left or wrong else [])])


def _picture_rows(content: dict[str, Any]) -> Iterable[list[str]]:
    stores = {row["peer"]: row for row in content["stores"]}
    rows = [row for row in content["rows"] if "draw_s" in row]
    best = max((row["per_s"] * row.get("frames", 1) for row in rows if row["peer"].startswith("lerobot")), default=0)
    for row in rows:
        frames, stored = row["per_s"] * row.get("frames", 1), stores[row["peer"]]["bytes"]
        times = f" ({frames / best:,.1f})" if best and row["peer"] == "rlhive" else ""
        cells = [f"{row['per_s']:,.0f}", f"{frames:,.0f}{times}", f"{stored / 1e6:.1f} MB"]
        yield [_name(row) + (" †" if "failed" in row else ""), *cells, f"{row.get('bytes', stored) / 1e6:.1f} MB"]


def growth(contents: list[dict[str, Any]]) -> list[str]:
    """Return Markdown: speed of random batches of 256 and memory by size, where there are several."""
    if len(contents) < 2:
        return []
    sizes = [content["size"] for content in contents]
    speed: dict[str, dict[int, float]] = {}
    memory: dict[str, dict[int, str]] = {}
    for content in contents:
        for row in content["rows"]:
            if row["workload"] == "random_256" and "per_s" in row:
                speed.setdefault(_name(row), {})[content["size"]] = row["per_s"]
            if row["workload"] == "memory" and "after" in row:
                memory.setdefault(_name(row), {})[content["size"]] = "; ".join(_memory_cells(row))
    lines = [[name, *(_share(found, size, sizes[0]) for size in sizes)] for name, found in speed.items()]
    held = [[name, *(found.get(size, "") for size in sizes)] for name, found in memory.items()]
    head = ["", *(f"{size:,}" for size in sizes)]
    return [
        "### As the dataset grows",
        f"Transitions/s, random batches of 256, pages warm; in brackets the share of {sizes[0]:,}'s.",
        _table(head, lines),
        "Peak memory of a process that draws them, its files' mapped pages included; what opening took of its own.",
        _table(head, held),
    ]


def _share(found: dict[int, float], size: int, first: int) -> str:
    if size not in found:
        return ""
    return f"{found[size]:,.0f}" + (f" ({found[size] / found[first]:.2f})" if size != first and first in found else "")


def _memory_cells(row: dict[str, Any]) -> list[str]:
    added = row["after"]["anonymous"] - row["before"]["anonymous"]
    return [f"{row['after']['peak'] / 1e6:,.0f} MB", f"{added / 1e6:+,.0f} MB"]


def export_tables(content: dict[str, Any]) -> str:
    """Return Markdown: per set of episodes the writers, then what only RLHive does."""
    parts = [_machine(content)]
    for name in dict.fromkeys(row["set"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["set"] == name]
        first = rows[0]
        parts.append(
            f"### {first['episodes']:,} episodes of {first['length']}, {first['kind']}\n\n"
            f"{first['raw_bytes'] / 1e6:.1f} MB of values. In brackets how many times longer than RLHive's: episode by "
            "episode and in batches of a collector; of CPU time, in batches."
        )
        head = ["", "record + commit", "CPU time", "transitions/s", "on disk", "made by"]
        parts.append(_table(head, map(_export_row, rows)))
    lines = [line for row in content["rows"] if "durability" in row for line in _own_rows(row)]
    if "median" in content["diff"]:
        count = content["diff"]["episodes"]
        lines.append([f"`diff` of two versions of {count:,} episodes", f"{content['diff']['median']:.2f} s"])
    parts.append(
        "### Only RLHive, and beside it what the disk, pyarrow and SHA-256 take alone\n\n" + _table(["", ""], lines)
    )
    return "\n\n".join(parts)


def _own_rows(row: dict[str, Any]) -> Iterable[list[str]]:
    waits, floors, check, gigabytes = row["durability"], row["floors"], row["check"], row["raw_bytes"] / 1e9
    said = f"{waits['wait_ms']:.2f} ms on average; half of all `add` within {waits['add_ms']:.2f} ms"
    yield [f"{row['set']}: an episode waits for the disk", said]
    yield [f"{row['set']}: this disk's flush alone", f"{floors['flush_ms']:.2f} ms"]
    yield [
        f"{row['set']}: pyarrow alone writes the same rows",
        f"{floors['parquet_s']:.2f} s, {floors['parquet_cpu_s']:.2f} s of CPU time",
    ]
    if "cpu_s" in check:
        said = f"{check['bytes_per_s'] / 1e9:.2f} GB/s of values, {check['bytes_per_cpu_s'] / 1e9:.2f} of CPU time"
        yield [f"{row['set']}: `check`", said]
        alone = gigabytes / (floors["decode_cpu_s"] + floors["sha256_cpu_s"])
        yield [f"{row['set']}: pyarrow reads them and SHA-256 hashes the files", f"{alone:.2f} GB/s of CPU time"]


def envs_table(content: dict[str, Any]) -> str:
    """Return Markdown: steps per second of each environment, raw, through RLHive and through TorchRL."""
    rows = []
    for name, row in content["environments"].items():
        build, workers = row["build"], row["workers"]
        for contender, found in row.items():
            if "of_raw" in found:
                spread = f"{found['of_raw_min']:.2f} to {found['of_raw_max']:.2f}"
                rows.append([name, contender, f"{found['steps_per_s']:,.0f}", f"{found['of_raw']:.2f}", spread])
        rows.append([name, "two workers, in episodes of one", "", f"{workers['two_of_one']:.2f}", ""])
        rows.append([name, "built in, and `gym.make`", f"{build['rlhive_s']:.2f} s, {build['raw_s']:.2f} s", "", ""])
    return _table(["environment", "", "steps/s", "of raw", "lowest to highest"], rows)


def import_table(content: dict[str, Any]) -> str:
    """Return Markdown: peak memory of imports of two sizes, and what an interrupt left."""
    head = ["source", "size", "peak memory", "CPU time", "Ctrl-C ended it within", "`kill -9` left, until the next run"]
    rows = []
    for row in content["rows"]:
        small, large = row["small"], row["large"]
        sizes = " → ".join(f"{one['file_bytes'] / 1e9:.2f} GB" for one in (small, large))
        peaks = " → ".join(f"{one['peak_bytes'] / 1e6:,.0f} MB" for one in (small, large))
        ended, left = f"{row['SIGINT']['ended_within_s']:.1f} s", f"{row['SIGKILL']['bytes'] / 1e6:.0f} MB"
        rows.append([row["source"], sizes, peaks, f"{large['cpu_s']:.0f} s", ended, left])
    return "\n\n".join([_machine(content), _table(head, rows)])


def draw(contents: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel per workload: transitions per second of every peer, with the spread; sizes in shades."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = [(content["size"], row) for content in contents for row in content["rows"] if "per_s" in row]
    shown = [name for name in SHOWN if any(row["workload"] == name for _, row in found)]
    figure, axes = plt.subplots(-(-len(shown) // 4), min(4, len(shown)), figsize=(16, 9), squeeze=False)
    sizes = sorted({size for size, _ in found})
    for panel, workload in zip(axes.flat, shown, strict=False):
        rows = [(size, row) for size, row in found if row["workload"] == workload]
        best = {_plain(row): 0.0 for _, row in rows}
        for _, row in rows:
            best[_plain(row)] = max(best[_plain(row)], row["per_s"])
        names = sorted(best, key=best.get)
        for size, row in rows:
            middle, low, high = (row["transitions"] / row["draw_s"][key] for key in ("median", "max", "min"))
            shade = 0.35 + 0.6 * (sizes.index(size) + 1) / len(sizes)
            colour = ("tab:orange" if row["peer"] == "rlhive" else "tab:blue", shade)
            place = names.index(_plain(row)) + 0.8 * ((sizes.index(size) + 0.5) / len(sizes) - 0.5)
            panel.barh(
                place,
                middle,
                height=0.8 / len(sizes),
                xerr=[[middle - low], [high - middle]],
                color=[colour],
                ecolor="0.4",
                error_kw={"linewidth": 0.7},
            )
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set(xscale="log", title=_title(workload), xlabel="transitions/s")
    for panel in list(axes.flat)[len(shown) :]:
        panel.axis("off")
    shades = ", ".join(f"{size:,}" for size in sizes)
    figure.suptitle(
        f"Transitions per second: more is better; {shades} transitions, larger sets darker; bars span all rounds"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _plain(row: dict[str, Any]) -> str:
    return _name(row).replace("**", "")


def _batch_rows(rows: list[dict[str, Any]], clock: str = "wall") -> Iterable[list[str]]:
    names = list(dict.fromkeys((row["peer"], row["variant"]) for row in rows if row["workload"] in SHOWN))
    for peer, variant in sorted(names, key=lambda name: list(LABELS).index(name[0])):
        own = {row["workload"]: row for row in rows if (row["peer"], row["variant"]) == (peer, variant)}
        cells = [_time(own.get(workload), clock) for workload in SHOWN]
        if any(cells):
            yield [_name({"peer": peer, "variant": variant}), *cells, f"`make bench-sampling PEERS={peer}`"]


def _open_rows(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    for peer in LABELS:
        own = {row["workload"]: row for row in rows if row["peer"] == peer and not row["variant"]}
        memory = _memory_cells(own["memory"]) if "after" in own.get("memory", {}) else ["", ""]
        cells = [_time(own.get("open_warm")), _time(own.get("open_cold")), *memory]
        if any(cells):
            yield [LABELS[peer], *cells]
    for row in rows:
        if row["workload"] == "open_cold" and row["variant"] == "pyarrow" and "draw_s" in row:
            yield ["pyarrow reads the same Parquet", "", _time(row), "", ""]


def _export_row(row: dict[str, Any]) -> list[str]:
    command = f"`make bench-export PEERS={row['peer'].partition(':')[0]}`"
    if "write_s" not in row:
        return [LABELS[row["peer"]], row["unavailable"], "", "", "", command]
    size, times, busy = f"{row['bytes'] / 1e6:.1f} MB", "", f"{row['cpu_s']['median']:.2f} s"
    if not row["peer"].startswith("rlhive"):
        times = f" ({_factor(row['ratio']['median'])}; {_factor(row['ratio_to_batches']['median'])})"
        busy += f" ({_factor(row['cpu_ratio_to_batches']['median'])})"
        size += f" (RLHive: {row['bytes_ratio']:.2f} of it)"
    wrong = " (read back: WRONG)" if "failed" in row else ""
    return [
        LABELS[row["peer"]],
        f"{row['write_s']['median']:.2f} s{times}{wrong}",
        busy,
        f"{row['per_s']:,.0f}",
        size,
        command,
    ]


def _factor(times: float) -> str:
    return f"{times:.2g}" if times < 99.5 else f"{times:,.0f}"


def _time(row: dict[str, Any] | None, clock: str = "wall") -> str:
    figure, ratio = {"wall": ("draw_s", "ratio"), "cpu": ("cpu_s", "cpu_ratio")}[clock]
    if row is None or figure not in row:
        return ""
    seconds = row[figure]["median"]
    if row["workload"] == "iterate_256":  # Minari yields episodes
        seconds *= 256 / row["transitions"]
    text = f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:,.0f} ms"
    times = row.get(ratio, {}).get("median", 1)
    if (row["peer"], row["variant"]) != ("rlhive", ""):
        text += f" ({_factor(times)})"
    return text + (" †" if "failed" in row else "")


def _name(row: dict[str, Any]) -> str:
    variant = f"{row['variant']} workers" if row["peer"].startswith("lerobot") and row["variant"] else row["variant"]
    return LABELS[row["peer"]] + (f", {variant}" if variant else "")


def _title(workload: str) -> str:
    return workload.replace("_", " ")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(content: dict[str, Any]) -> str:
    there = content["machine"]
    after = f", {there['load_after'][0]:.1f} after; {content['seconds']} s" if "load_after" in there else ""
    return (
        f"{there['date']}, commit {there['commit']}: {there['cores']} cores of {there['cpu']}, "
        f"{there['memory_gb']} GB; load {there['load'][0]:.1f} before{after}."
    )


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
