"""The page and its answers as one file, which opens without a server and without network.

::

    answers that the page asks for first: list, distributions, coverage, checks, provenance    always
    pictures of a few episodes, then the numbers of as many as fit                              up to MAX_BYTES

An answer is JSON, compressed by gzip, in base64: the browser unpacks one when it is asked for. The file's
Content-Security-Policy names its scripts by their hashes and allows no request.
"""

import base64
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rlhive.data import write_atomically
from rlhive.errors import InvalidOptionError, RLHiveError, StoreNotWritableError
from rlhive.viewer._dataset import ViewedDataset
from rlhive.viewer._json import encode_json
from rlhive.viewer._server import project_datasets, read_page_file

#: Largest file in bytes.
MAX_BYTES = 10_000_000
#: Bytes that are kept for the description of the datasets, which is written last.
_DESCRIPTION_BYTES = 20_000
#: Share of the free bytes that pictures may take.
_PICTURE_SHARE = 0.6
#: Width and quality of the pictures.
_PICTURE_WIDTH, _PICTURE_QUALITY = 280, 65


@dataclass
class _Bundle:
    """Packed answers by question.

    Attributes:
        free: Bytes that are left.
        answers: Answer by route and parameters, as base64 of gzip of JSON.
    """

    free: int
    answers: dict[str, str] = field(default_factory=dict)

    def add(self, question: str, answer: Any) -> bool:
        """Add an answer unless it is too large; return whether it was added."""
        packed = pack_answer(answer)
        size = len(packed) + len(question) + 8
        if size > self.free:
            return False
        self.answers[question] = packed
        self.free -= size
        return True


@dataclass(frozen=True)
class ExportedPage:
    """What an exported file holds.

    Attributes:
        path: The file.
        num_bytes: Size of the file.
        note: How many episodes are in it with their numbers and pictures, and why others are not.
    """

    path: Path
    num_bytes: int
    note: str


def export_page(
    datasets: Sequence[ViewedDataset], path: str | Path, *, pictures: int = 3, progress: bool = True
) -> ExportedPage:
    """Write the page with its answers as one file of at most :data:`MAX_BYTES`; the file appears when it is complete.

    Args:
        datasets: One dataset, or two to compare.
        path: File, whose suffix is ``.html``.
        pictures: Number of episodes of each dataset whose pictures are included; states without pictures are rendered,
            which takes some seconds for each.
        progress: Whether to show a progress bar.

    Raises:
        InvalidOptionError: The suffix is another one, or the list of episodes alone is too large.
        StoreNotWritableError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        msg = f"{path}: expected a file named .html"
        raise InvalidOptionError(msg)
    bundle = _Bundle(MAX_BYTES - len(_render_page({})) - _DESCRIPTION_BYTES)
    notes = []
    for index, dataset in enumerate(datasets):
        _add_summaries(bundle, dataset, index)
    _add_coverage(bundle, datasets)
    for index, dataset in enumerate(datasets):
        share = bundle.free // (len(datasets) - index)
        notes.append(_add_episodes(bundle, dataset, index, free=share, pictures=pictures, progress=progress))
    note = " ".join(notes)
    exported = {"note": note, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    bundle.free += _DESCRIPTION_BYTES
    _require_added(bundle, "datasets", {"datasets": [dataset.describe() for dataset in datasets], "exported": exported})
    content = _render_page(bundle.answers)
    try:
        write_atomically(path, content)
    except OSError as error:
        msg = f"The page cannot be written to {path}: {error.strerror}. Choose another file."
        raise StoreNotWritableError(msg) from error
    return ExportedPage(path, len(content), note)


def pack_answer(answer: Any) -> str:
    """Return an answer as base64 of gzip of JSON; equal answers give equal text."""
    return base64.b64encode(gzip.compress(encode_json(answer), mtime=0)).decode()


def _add_summaries(bundle: _Bundle, dataset: ViewedDataset, index: int) -> None:
    """Add what the page shows besides single episodes; a question without an answer keeps its reason."""
    with contextlib.suppress(RLHiveError):  # the list then has no scores
        dataset.scores()
    _require_added(bundle, f"episodes?dataset={index}", dataset.episodes())
    for route in ("flags", "provenance", "dimensions", "checks"):
        _require_added(bundle, f"{route}?dataset={index}", _answer_or_reason(getattr(dataset, route)))


def _add_coverage(bundle: _Bundle, datasets: Sequence[ViewedDataset]) -> None:
    for key in dict.fromkeys(itertools.chain.from_iterable(dataset.describe()["vectors"] for dataset in datasets)):
        bundle.add(f"coverage?key={key}", _answer_or_reason(functools.partial(project_datasets, datasets, key)))


def _add_episodes(
    bundle: _Bundle, dataset: ViewedDataset, index: int, *, free: int, pictures: int, progress: bool
) -> str:
    """Add pictures and numbers of episodes, and return a sentence that says of how many.

    Args:
        bundle: The answers.
        dataset: The dataset.
        index: Its index.
        free: Bytes that it may take.
        pictures: Number of episodes with pictures.
        progress: Whether to show a progress bar.
    """
    reserve, bundle.free = bundle.free - free, free
    episodes = _interleave_splits(dataset)
    with_pictures, reason = _add_pictures(bundle, dataset, index, episodes[:pictures])
    first = episodes[:3]
    sizes = [len(pack_answer(dataset.series(episode))) + 600 for episode in first]
    count = min(len(episodes), int(bundle.free / (1.1 * max(1.0, float(np.mean(sizes or [1]))))))
    with_series = 0
    records = dataset.view.select(episodes[:count]).iter_records()
    for record in tqdm(records, total=count, desc=f"export {dataset.label}", unit="ep", disable=not progress):
        if not bundle.add(f"series?dataset={index}&episode={record.episode}", dataset.make_series(record)):
            break
        with_series += 1
        bundle.add(
            f"neighbours?dataset={index}&episode={record.episode}",
            _answer_or_reason(functools.partial(dataset.find_neighbours, record)),
        )
    bundle.free += reserve
    numbers = "all" if with_series == len(episodes) else f"{with_series:,} of {len(episodes):,}"
    return (
        f"This file holds the rows of all episodes of {dataset.label}, the numbers over time of {numbers}, and the "
        f"pictures of {with_pictures}{reason}."
    )


def _add_pictures(bundle: _Bundle, dataset: ViewedDataset, index: int, episodes: Sequence[int]) -> tuple[int, str]:
    """Add the pictures of some episodes; return of how many, and why of no others."""
    reserve = int(bundle.free * (1 - _PICTURE_SHARE))
    bundle.free -= reserve
    added, reason = 0, ""
    for episode in episodes:
        try:
            answer = dataset.encode_pictures(episode, max_width=_PICTURE_WIDTH, quality=_PICTURE_QUALITY)
        except RLHiveError as error:
            reason = f" ({error})"
            break
        if not bundle.add(f"frames?dataset={index}&episode={episode}", answer):
            reason = " (those of others did not fit)"
            break
        added += 1
    bundle.free += reserve
    return added, reason


def _interleave_splits(dataset: ViewedDataset) -> list[int]:
    """Return the episodes in an order of which every beginning is spread over the splits and over each of them."""
    generator = np.random.default_rng(0)
    by_split = [generator.permutation(ids).tolist() for ids in dataset.view.read_selection().values()]
    rounds = itertools.zip_longest(*by_split)
    return [episode for episodes in rounds for episode in episodes if episode is not None]


def _answer_or_reason(ask: Callable[[], Any]) -> Any:
    """Return an answer, or the sentence with which it is refused."""
    try:
        return ask()
    except RLHiveError as error:
        return {"error": str(error)}


def _require_added(bundle: _Bundle, question: str, answer: Any) -> None:
    if not bundle.add(question, answer):
        msg = f"The page would exceed {MAX_BYTES:,} bytes: {question} does not fit. Export fewer episodes: --where"
        raise InvalidOptionError(msg)


def _render_page(answers: dict[str, str]) -> bytes:
    """Return the page with its scripts, styles and answers in it."""
    page = read_page_file("index.html").decode()
    scripts, styles = [], []
    for name in ("uplot.css", "viewer.css"):
        content = read_page_file(name).decode()
        styles.append(_hash_source(content))
        page = _replace_tag(page, f'<link rel="stylesheet" href="{name}">', f"<style>{content}</style>")
    data = json.dumps(answers, separators=(",", ":")).replace("<", "\\u003c")
    data_tag = f'<script type="application/json" id="rlhive-data">{data}</script>\n'
    for name, attributes in (("uplot.js", " defer"), ("filter.js", " defer"), ("viewer.js", ' type="module"')):
        content = read_page_file(name).decode().replace("</script", "<\\/script")
        scripts.append(_hash_source(content))
        kind = "" if attributes == " defer" else attributes
        page = _replace_tag(page, f'<script src="{name}"{attributes}></script>', f"<script{kind}>{content}</script>\n")
    policy = (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src {' '.join(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    page = page.replace("<title>", f"{meta}<title>", 1)
    return page.replace("</body>", f"{data_tag}</body>", 1).encode()


def _replace_tag(page: str, tag: str, content: str) -> str:
    before, found, after = page.partition(tag)
    if not found:
        msg = f"index.html: expected {tag}"
        raise ValueError(msg)
    return f"{before}{content}{after}"


def _hash_source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
