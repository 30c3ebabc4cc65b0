"""Figures of sweeps: the data in them, without a display."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from rlhive._figures import COLORS, save_figure
from rlhive.sim_algos._figures import draw_bars, draw_curves
from rlhive.sim_algos._results import gather_results
from tests.sim_algos.sweeps import evaluation, write_run


@pytest.fixture
def groups(tmp_path):
    """Two configurations with two seeds each, evaluated twice; the second has no success signal."""
    for lr, top in ((0.1, 10.0), (0.2, -20.0)):
        for seed in (0, 1):
            rows = [
                evaluation(step, [top + step, top + step + 2 * seed], [True, seed == 0] if lr == 0.1 else None)
                for step in (1000, 2000)
            ]
            curve = [{"step": row["step"]} for row in rows]
            config = {"optim": {"lr": lr}, "name": "$x_{"}
            write_run(tmp_path / f"{lr}-{seed}", seed=seed, config=config, curve=curve, evaluations=rows)
    return gather_results([tmp_path]).groups


def test_curves_show_means_and_intervals(groups) -> None:
    figure = draw_curves(groups)
    success, returns = figure.axes

    assert [axis.get_ylabel() for axis in figure.axes] == ["success rate", "return"]
    assert [line.get_xydata().tolist() for line in success.lines] == [[[1000.0, 0.75], [2000.0, 0.75]]]
    assert [line.get_xydata().tolist() for line in returns.lines] == [
        [[1000.0, 1010.5], [2000.0, 2010.5]],
        [[1000.0, 980.5], [2000.0, 1980.5]],
    ]
    assert [line.get_color() for line in returns.lines] == list(COLORS[:2])
    assert len({line.get_linestyle() for line in returns.lines}) == 2
    for group, band in zip(groups, returns.collections, strict=True):
        corners = band.get_paths()[0].vertices
        for point in group.curves["return"]:
            heights = corners[corners[:, 0] == point.step][:, 1]
            assert (heights.min(), heights.max()) == point.interval
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["model=bc optim.lr=0.1 (2 seeds)", "model=bc optim.lr=0.2 (2 seeds)"]
    assert returns.xaxis.get_major_formatter()(1500, 0) == "1.5k"


def test_bars_show_means_intervals_and_a_point_per_seed(groups) -> None:
    success, returns = draw_bars(groups).axes

    assert [bar.get_width() for bar in returns.patches] == [2010.5, 1980.5]
    assert [bar.get_width() for bar in success.patches] == [0.75]
    points = [np.asarray(row.get_offsets()) for row in returns.collections if isinstance(row, PathCollection)]
    assert [row[:, 0].tolist() for row in points] == [[2010.0, 2011.0], [1980.0, 1981.0]]
    intervals = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in returns.containers[1::2]]
    assert intervals == [list(group.final["return"].interval) for group in groups]
    assert success.get_xlim() == (0.0, 1.02)
    assert [label.get_text() for label in success.get_yticklabels()] == [
        "model=bc optim.lr=0.1\n(2 seeds)",
        "model=bc optim.lr=0.2\n(2 seeds)",
    ]


def test_formulas_and_long_names_are_drawn_as_they_are(tmp_path) -> None:
    for index, text in enumerate(["$x_{", "\\frac{", "é\x1b[2J漢", "y" * 3000, "a b " * 100]):
        write_run(tmp_path / str(index), config={"note": text}, curve=[{"step": 1, "return": 1.0}, {"step": 2}])
    figure = draw_bars(gather_results([tmp_path]).groups)
    files = save_figure(figure, tmp_path / "bars")
    assert [file.name for file in files] == ["bars.pdf", "bars.png"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_without_evaluations_nothing_is_drawn_and_older_figures_go(tmp_path) -> None:
    write_run(tmp_path / "a")
    groups = gather_results([tmp_path]).groups
    assert draw_bars(groups) is None
    assert draw_curves(groups) is None
    (tmp_path / "curves.pdf").write_text("older")
    assert save_figure(None, tmp_path / "curves") == []
    assert not (tmp_path / "curves.pdf").exists()


def test_matplotlibs_settings_stay_as_they_are(groups) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_curves(groups)
    draw_bars(groups)
    assert dict(mpl.rcParams) == before
