"""Tables and a chart from the result files: ``python -m benchmarks.report``.

Rewrites what stands between the markers of benchmarks/README.md, and draws benchmarks/results/sampling.png.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import ROOT
from benchmarks.peers.rounds import RESULTS

README = ROOT / "benchmarks" / "README.md"
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
    sampling, export = (_read(name) for name in ("sampling", "export"))
    if sampling:
        text = _between(text, "sampling", sampling_tables(sampling))
        draw(sampling, RESULTS / "sampling.png")
    if export:
        text = _between(text, "export", export_tables(export))
    README.write_text(text, encoding="utf-8")


def sampling_tables(content: dict[str, Any]) -> str:
    """Return Markdown: per size the time of a batch, opening, memory."""
    parts = [_machine(content)]
    for size in sorted({row["size"] for row in content["rows"] if row["workload"] != "images_64"}):
        rows = [row for row in content["rows"] if row["size"] == size]
        parts.append(
            f"### {size:,} transitions\n\nMedian time of one batch; in brackets how many times longer than RLHive's."
        )
        parts.append(_table(["", *(_title(name) for name in SHOWN), "made by"], _batch_rows(rows)))
        parts.append(_table(["", "open, warm", "open, cold", "peak memory", "anonymous"], _open_rows(rows)))
    pictures = [row for row in content["rows"] if row["workload"] == "images_64" and "draw_s" in row]
    if pictures:
        parts.append("### Pictures, 128 by 128, random batches of 64")
        stores = {row["peer"]: row for row in content["stores"] if row["kind"] == "pixels"}
        lines = [
            [_name(row), f"{row['per_s']:,.0f} frames/s", f"{stores[row['peer']]['bytes'] / 1e6:.1f} MB"]
            for row in pictures
        ]
        parts.append(_table(["", "", "on disk"], lines))
    wrong = [f"- {_name(row)}, {row['workload']}: {row['failed']}" for row in content["rows"] if "failed" in row]
    if wrong:
        parts.append("Served something else than the source holds:\n\n" + "\n".join(wrong))
    return "\n\n".join(parts)


def export_tables(content: dict[str, Any]) -> str:
    """Return Markdown: per set of episodes the writers, then what only RLHive does."""
    parts = [_machine(content)]
    for name in dict.fromkeys(row["set"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["set"] == name]
        first = rows[0]
        parts.append(
            f"### {first['episodes']:,} episodes of {first['length']}, {first['kind']}\n\n"
            f"{first['raw_bytes'] / 1e6:.1f} MB of values. In brackets how many times longer than RLHive's, episode by "
            "episode and in batches of a collector."
        )
        parts.append(_table(["", "record + commit", "transitions/s", "on disk", "made by"], map(_export_row, rows)))
    lines = []
    for row in content["rows"]:
        if "durability" in row:
            waits = row["durability"]
            lines.append(
                [
                    f"{row['set']}: an episode waits for the disk",
                    f"{waits['wait_ms']:.2f} ms of {waits['add_ms']:.2f} ms",
                ]
            )
            if "bytes_per_s" in row["check"]:
                lines.append([f"{row['set']}: `check`", f"{row['check']['bytes_per_s'] / 1e9:.2f} GB/s of values"])
    if "median" in content["diff"]:
        count = content["diff"]["episodes"]
        lines.append([f"`diff` of two versions of {count:,} episodes", f"{content['diff']['median']:.2f} s"])
    parts.append("### Only RLHive\n\n" + _table(["", ""], lines))
    return "\n\n".join(parts)


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw one panel per workload: transitions per second of every peer, by size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in SHOWN if any(row["workload"] == name and "per_s" in row for row in content["rows"])]
    figure, axes = plt.subplots(2, -(-len(shown) // 2), figsize=(15, 8), squeeze=False)
    colours = dict(zip(LABELS, plt.get_cmap("tab20").colors, strict=False))
    size = max(row["size"] for row in content["rows"] if row["workload"] in shown)
    for panel, workload in zip(axes.flat, shown, strict=False):
        rows = [
            row for row in content["rows"] if row["workload"] == workload and row["size"] == size and "per_s" in row
        ]
        rows.sort(key=lambda row: row["per_s"])
        names = [re.sub(r"\*", "", _name(row)) for row in rows]
        values = [row["per_s"] for row in rows]
        low = [row["per_s"] - row["transitions"] / row["draw_s"]["max"] for row in rows]
        high = [row["transitions"] / row["draw_s"]["min"] - row["per_s"] for row in rows]
        panel.barh(names, values, xerr=[low, high], color=[colours[row["peer"]] for row in rows], ecolor="0.4")
        panel.set_xscale("log")
        panel.set_title(_title(workload))
        panel.set_xlabel("transitions/s")
        panel.tick_params(axis="y", labelsize=8)
    for panel in list(axes.flat)[len(shown) :]:
        panel.axis("off")
    figure.suptitle(f"{size:,} transitions of 75 + 9 float32, {content['machine']['cores']} cores: more is better")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _batch_rows(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    names = list(dict.fromkeys((row["peer"], row["variant"]) for row in rows if row["workload"] in SHOWN))
    for peer, variant in sorted(names, key=lambda name: list(LABELS).index(name[0])):
        own = {row["workload"]: row for row in rows if (row["peer"], row["variant"]) == (peer, variant)}
        cells = [_time(own.get(workload)) for workload in SHOWN]
        if any(cells):
            yield [_name({"peer": peer, "variant": variant}), *cells, f"`make bench-sampling PEERS={peer}`"]


def _open_rows(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    for peer in LABELS:
        own = {row["workload"]: row for row in rows if row["peer"] == peer and not row["variant"]}
        after = own.get("memory", {}).get("after")
        memory = [f"{after['peak'] / 1e6:,.0f} MB", f"{after['anonymous'] / 1e6:,.0f} MB"] if after else ["", ""]
        cells = [_time(own.get("open_warm")), _time(own.get("open_cold")), *memory]
        if any(cells):
            yield [LABELS[peer], *cells]
    for row in rows:
        if row["workload"] == "open_cold" and row["variant"] == "pyarrow" and "draw_s" in row:
            yield ["pyarrow reads the same Parquet", "", _time(row), "", ""]


def _export_row(row: dict[str, Any]) -> list[str]:
    command = f"`make bench-export PEERS={row['peer'].partition(':')[0]}`"
    if "write_s" not in row:
        return [LABELS[row["peer"]], row["unavailable"], "", "", command]
    size, times = f"{row['bytes'] / 1e6:.1f} MB", ""
    if not row["peer"].startswith("rlhive"):
        times = f" ({row['ratio']['median']:.2g}; {row['ratio_to_batches']['median']:.2g})"
        size += f" (RLHive: {row['bytes_ratio']:.2f} of it)"
    wrong = " (read back: WRONG)" if "failed" in row else ""
    return [
        LABELS[row["peer"]],
        f"{row['write_s']['median']:.2f} s{times}{wrong}",
        f"{row['per_s']:,.0f}",
        size,
        command,
    ]


def _time(row: dict[str, Any] | None) -> str:
    if row is None or "draw_s" not in row:
        return ""
    seconds = row["draw_s"]["median"]
    if row["workload"] == "iterate_256":  # Minari yields episodes
        seconds *= 256 / row["transitions"]
    text = f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:,.0f} ms"
    times = row.get("ratio", {}).get("median", 1)
    if (row["peer"], row["variant"]) != ("rlhive", ""):
        text += f" ({times:.2g})" if times < 99.5 else f" ({times:,.0f})"
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
    return (
        f"{there['date']}, commit {there['commit']}: {there['cores']} cores of {there['cpu']}, "
        f"{there['memory_gb']} GB; load {there['load'][0]:.1f} before, "
        f"{there['load_after'][0]:.1f} after; {content['seconds']} s."
    )


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
