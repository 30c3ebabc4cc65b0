"""Tables and a chart of the result files: ``python -m benchmarks.report``.

Rewrites the text between the markers in benchmarks/README.md and docs/formats.md, and draws
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
    "rlhive:seconds": "**RLHive**, a flush a second",
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
TRAINING_LABELS = {
    "matmuls/bc": "bare matrix products of bc, forward and backward",
    "rlhive/bc": "**RLHive** bc",
    "rlhive/bc:5": "**RLHive** bc, five seeds at once",
    "d3rlpy/bc": "d3rlpy BC",
    "rlhive/iql": "**RLHive** iql, the paper's policy",
    "rlhive/iql:5": "**RLHive** iql, the paper's policy, five seeds at once",
    "rlhive/iql_default": "**RLHive** iql, its default policy",
    "torchrl/iql": "TorchRL's script of IQL",
    "corl/iql": "IQL in the manner of CORL",
    "d3rlpy/iql": "d3rlpy IQL",
    "rlhive/td3_bc": "**RLHive** td3_bc",
    "d3rlpy/td3_bc": "d3rlpy TD3PlusBC",
    "rlhive/rebrac": "**RLHive** rebrac",
    "d3rlpy/rebrac": "d3rlpy ReBRAC",
    "rlhive/sac": "**RLHive** sac",
    "d3rlpy/sac": "d3rlpy SAC",
    "rlhive/step/bc": "**RLHive** bc: sample, preprocess, update, log",
    "rlhive/sampling/bc": "**RLHive** bc: sample and preprocess",
    "d3rlpy/step/bc": "d3rlpy BC: sample, update",
    "rlhive/step/iql": "**RLHive** iql: sample, preprocess, update, log",
    "rlhive/sampling/iql": "**RLHive** iql: sample and preprocess",
    "d3rlpy/step/iql": "d3rlpy IQL: sample, update",
}


def main() -> None:
    """Rewrite the tables and draw the chart."""
    text = README.read_text(encoding="utf-8")
    sampling = sorted(
        map(_read, RESULTS.glob("sampling-*.json")), key=lambda content: (content["kind"] == "pixels", content["size"])
    )
    if sampling:
        plain = [content for content in sampling if content["kind"] != "pixels"]
        text = _between(text, "sampling", "\n\n".join([*map(sampling_tables, sampling), *growth(plain)]))
        print("\n\n".join(growth(plain)))
        draw(plain, RESULTS / "sampling.png")
    if (RESULTS / "export.json").exists():
        text = _between(text, "export", export_tables(_read(RESULTS / "export.json")))
    if (RESULTS / "envs.json").exists():
        text = _between(text, "envs", envs_table(_read(RESULTS / "envs.json")))
    if (RESULTS / "training.json").exists():
        text = _between(text, "training", training_tables(_read(RESULTS / "training.json")))
    README.write_text(text, encoding="utf-8")
    if (RESULTS / "import.json").exists():
        formats = FORMATS.read_text(encoding="utf-8")
        FORMATS.write_text(_between(formats, "import", import_table(_read(RESULTS / "import.json"))), encoding="utf-8")


def sampling_tables(content: dict[str, Any]) -> str:
    """Return Markdown tables of one set of episodes: batch times, opening and memory, or the decoding of pictures."""
    rows = content["rows"]
    if content["kind"] == "pixels":
        raw = content["stores"][0]["raw_bytes"] / 1e6
        parts = ["### Pictures, 128 by 128, random batches of 64", _machine(content)]
        parts.append(
            "A transition of RLHive has two pictures, the current and the next one; an item of LeRobotDataset has one. "
            "In brackets: multiple of the frames/s of the fastest LeRobotDataset. RLHive decodes with one thread per "
            "core."
        )
        parts.append(
            _table(
                ["", "transitions/s", "frames/s", f"size on disk ({raw:.0f} MB raw)", "size of the files read"],
                _picture_rows(content),
            )
        )
    else:
        parts = [f"### {content['size']:,} transitions", _machine(content)]
        parts.append("Median time of one batch; in brackets: multiple of RLHive's time.")
        parts.append(_table(["", *(_title(name) for name in SHOWN), "command"], _batch_rows(rows)))
        parts.append(
            "CPU time of the same batches, of all threads but without loader processes. Other processes on the machine "
            "disturb it less than the wall time."
        )
        parts.append(_table(["", *(_title(name) for name in SHOWN)], (row[:-1] for row in _batch_rows(rows, "cpu"))))
        parts.append(
            _table(
                ["", "open, warm", "open, cold", "peak memory", "anonymous memory added by opening"], _open_rows(rows)
            )
        )
    unavailable = [
        f"- {LABELS[row['peer']]}: {row['unavailable']}" for row in content["stores"] if "unavailable" in row
    ]
    failures = [f"- † {_name(row)}, {row['workload']}: {row['failed']}" for row in rows if "failed" in row]
    return "\n\n".join([*parts, *(["\n".join(unavailable + failures)] if unavailable or failures else [])])


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
    """Return Markdown tables of the speed of random batches of 256 and of memory by dataset size; none for one size."""
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
    speed_lines = [[name, *(_share(by_size, size, sizes[0]) for size in sizes)] for name, by_size in speed.items()]
    memory_lines = [[name, *(by_size.get(size, "") for size in sizes)] for name, by_size in memory.items()]
    head = ["", *(f"{size:,}" for size in sizes)]
    return [
        "### Scaling with the size of the dataset",
        f"Transitions/s of random batches of 256, page cache warm; in brackets: relative to {sizes[0]:,} transitions.",
        _table(head, speed_lines),
        "Peak memory of a process that draws these batches, including mapped pages of files, and the anonymous memory "
        "that opening added.",
        _table(head, memory_lines),
    ]


def _share(by_size: dict[int, float], size: int, first: int) -> str:
    if size not in by_size:
        return ""
    return f"{by_size[size]:,.0f}" + (
        f" ({by_size[size] / by_size[first]:.2f})" if size != first and first in by_size else ""
    )


def _memory_cells(row: dict[str, Any]) -> list[str]:
    added = row["after"]["anonymous"] - row["before"]["anonymous"]
    return [f"{row['after']['peak'] / 1e6:,.0f} MB", f"{added / 1e6:+,.0f} MB"]


def export_tables(content: dict[str, Any]) -> str:
    """Return Markdown tables: the writers for each set of episodes, then the measurements of RLHive alone."""
    parts = [_machine(content)]
    for name in dict.fromkeys(row["set"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["set"] == name]
        first = rows[0]
        parts.append(
            f"### {first['episodes']:,} episodes of {first['length']}, {first['kind']}\n\n"
            f"{first['raw_bytes'] / 1e6:.1f} MB of raw values. In brackets: multiple of RLHive's time, first for "
            "writing episode by episode, then in batches; for CPU time, in batches."
        )
        head = ["", "record + commit", "CPU time", "transitions/s", "size on disk", "command"]
        parts.append(_table(head, map(_export_row, rows)))
    lines = [line for row in content["rows"] if "durability" in row for line in _rlhive_only_rows(row)]
    if "median" in content["diff"]:
        count = content["diff"]["episodes"]
        lines.append([f"`diff` of two versions of {count:,} episodes", f"{content['diff']['median']:.2f} s"])
    parts.append(
        "### Durability, `check` and `diff` of RLHive, with lower bounds from disk, pyarrow and SHA-256\n\n"
        + _table(["", ""], lines)
    )
    return "\n\n".join(parts)


def _rlhive_only_rows(row: dict[str, Any]) -> Iterable[list[str]]:
    waits, floors, check, gigabytes = row["durability"], row["floors"], row["check"], row["raw_bytes"] / 1e9
    text = f"{waits['wait_ms']:.2f} ms on average; median `add` {waits['add_ms']:.2f} ms"
    yield [f"{row['set']}: wait for the disk per episode", text]
    yield [f"{row['set']}: this disk's flush alone", f"{floors['flush_ms']:.2f} ms"]
    yield [
        f"{row['set']}: pyarrow alone writes the same rows",
        f"{floors['parquet_s']:.2f} s, {floors['parquet_cpu_s']:.2f} s of CPU time",
    ]
    if "cpu_s" in check:
        text = (
            f"{check['bytes_per_s'] / 1e9:.2f} GB/s raw; {check['bytes_per_cpu_s'] / 1e9:.2f} GB per second of CPU time"
        )
        yield [f"{row['set']}: `check`", text]
        alone = gigabytes / (floors["decode_cpu_s"] + floors["sha256_cpu_s"])
        yield [
            f"{row['set']}: pyarrow reads the rows and SHA-256 hashes the files",
            f"{alone:.2f} GB per second of CPU time",
        ]


def envs_table(content: dict[str, Any]) -> str:
    """Return a Markdown table of steps per second of each environment: raw, RLHive's wrapper and TorchRL's."""
    rows = []
    for name, row in content["environments"].items():
        build, workers = row["build"], row["workers"]
        for contender, figures in row.items():
            if "of_raw" in figures:
                spread = f"{figures['of_raw_min']:.2f} to {figures['of_raw_max']:.2f}"
                rows.append([name, contender, f"{figures['steps_per_s']:,.0f}", f"{figures['of_raw']:.2f}", spread])
        rows.append([name, "two workers, in episodes of one", "", f"{workers['two_of_one']:.2f}", ""])
        rows.append([name, "build time (`gym.make`)", f"{build['rlhive_s']:.2f} s ({build['raw_s']:.2f} s)", "", ""])
    return _table(["environment", "", "steps/s", "relative to raw", "range"], rows)


def import_table(content: dict[str, Any]) -> str:
    """Return a Markdown table of the peak memory of imports of two sizes, and of what interruptions left."""
    head = ["source", "size", "peak memory", "CPU time", "Ctrl-C ended it within", "`kill -9` left, until the next run"]
    rows = []
    for row in content["rows"]:
        small, large = row["small"], row["large"]
        sizes = " → ".join(f"{result['file_bytes'] / 1e9:.2f} GB" for result in (small, large))
        peaks = " → ".join(f"{result['peak_bytes'] / 1e6:,.0f} MB" for result in (small, large))
        ended, left_bytes = f"{row['SIGINT']['ended_within_s']:.1f} s", f"{row['SIGKILL']['bytes'] / 1e6:.0f} MB"
        rows.append([row["source"], sizes, peaks, f"{large['cpu_s']:.0f} s", ended, left_bytes])
    return "\n\n".join([_machine(content), _table(head, rows)])


def training_tables(content: dict[str, Any]) -> str:
    """Return Markdown tables of the CPU time of a gradient step, of its ratios, and of the comparison of losses."""
    rows = []
    for row in content["rows"]:
        is_measured = "cpu_ms" in row
        cells = (
            [f"{row['cpu_ms'][key]:.2f} ms" for key in ("min", "median")] if is_measured else [row["unavailable"], ""]
        )
        rows.append([TRAINING_LABELS.get(row["variant"], row["variant"]), *cells])
    goals = [
        [
            goal["name"],
            f"{goal['best']:.2f}",
            f"{goal['rounds']['median']:.2f} ({goal['rounds']['min']:.2f} to {goal['rounds']['max']:.2f})",
            f"{goal['limit']:g}",
            "" if goal["best"] <= goal["limit"] else "missed",
        ]
        for goal in content["goals"]
    ]
    compared = [
        f"{library}: {values['compared']} losses, largest relative difference {values['largest_relative_error']:.0e}"
        for library, values in content["values"].items()
        if library != "rlhive"
    ]
    return "\n\n".join(
        [
            _machine(content),
            _table(["CPU time of a gradient step", "best round", "median"], rows),
            _table(["ratio", "of the best rounds", "median of the rounds (range)", "goal, at most", ""], goals),
            f"Losses of IQL's first gradient steps from the same weights and batches, against RLHive's: "
            f"{'; '.join(compared)}.",
        ]
    )


def draw(contents: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel per workload: transitions per second of every peer, with their range; a shade per size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sized_rows = [(content["size"], row) for content in contents for row in content["rows"] if "per_s" in row]
    shown = [name for name in SHOWN if any(row["workload"] == name for _, row in sized_rows)]
    figure, axes = plt.subplots(-(-len(shown) // 4), min(4, len(shown)), figsize=(16, 9), squeeze=False)
    sizes = sorted({size for size, _ in sized_rows})
    for panel, workload in zip(axes.flat, shown, strict=False):
        rows = [(size, row) for size, row in sized_rows if row["workload"] == workload]
        best = {_plain(row): 0.0 for _, row in rows}
        for _, row in rows:
            best[_plain(row)] = max(best[_plain(row)], row["per_s"])
        names = sorted(best, key=best.get)
        for size, row in rows:
            middle, low, high = (row["transitions"] / row["draw_s"][key] for key in ("median", "max", "min"))
            shade = 0.35 + 0.6 * (sizes.index(size) + 1) / len(sizes)
            colour = ("tab:orange" if row["peer"] == "rlhive" else "tab:blue", shade)
            position = names.index(_plain(row)) + 0.8 * ((sizes.index(size) + 0.5) / len(sizes) - 0.5)
            panel.barh(
                position,
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
        f"Transitions per second (more is better) for {shades} transitions (larger is darker); lines span all rounds"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _plain(row: dict[str, Any]) -> str:
    return _name(row).replace("**", "")


def _batch_rows(rows: list[dict[str, Any]], clock: str = "wall") -> Iterable[list[str]]:
    names = list(dict.fromkeys((row["peer"], row["variant"]) for row in rows if row["workload"] in SHOWN))
    for peer, variant in sorted(names, key=lambda name: list(LABELS).index(name[0])):
        row_by_workload = {row["workload"]: row for row in rows if (row["peer"], row["variant"]) == (peer, variant)}
        cells = [_time(row_by_workload.get(workload), clock) for workload in SHOWN]
        if any(cells):
            yield [_name({"peer": peer, "variant": variant}), *cells, f"`make bench-sampling PEERS={peer}`"]


def _open_rows(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    for peer in LABELS:
        row_by_workload = {row["workload"]: row for row in rows if row["peer"] == peer and not row["variant"]}
        memory = _memory_cells(row_by_workload["memory"]) if "after" in row_by_workload.get("memory", {}) else ["", ""]
        cells = [_time(row_by_workload.get("open_warm")), _time(row_by_workload.get("open_cold")), *memory]
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
    machine = content["machine"]
    after = f", {machine['load_after'][0]:.1f} after; {content['seconds']} s" if "load_after" in machine else ""
    return (
        f"{machine['date']}, commit {machine['commit']}: {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gb']} GB; load {machine['load'][0]:.1f} before{after}."
    )


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def replace_section(path: Path, name: str, content: str) -> None:
    """Rewrite the text between the markers of that name; a document without them stays as it is."""
    text = path.read_text(encoding="utf-8")
    if f"<!-- {name} -->" in text:
        path.write_text(_between(text, name, content), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
