"""The order of streamed epochs: whatever the readers, each position comes once, also after a stop at any step."""

import numpy as np
import pytest
from hypothesis import event, given, settings, strategies as st

from rlhive.data.hub._stream_order import EpochOrder, PoolOrder, Runs, StreamStage, begin_stage, draw_distinct, permute

WORLD_SIZES = (1, 2, 3, 4, 8)


def hand_out(order, stages, reader, count=None):
    """Yield the positions of the batches of one reader in the last stage, as its pool gives them."""
    stretch = order.stretch(stages, reader)
    done = stages[-1].count_done(reader.worker)
    count = len(stretch.sizes) - done if count is None else count
    sizes = stretch.sizes[done : done + count].tolist()
    if not stretch.pool_size:
        positions = stretch.remaining(done)
        for size in sizes:
            yield positions.take(np.arange(size))
            positions = positions.slice(size, len(positions))
        return
    pool = stretch.order_after(done)
    for size in sizes:
        rows = pool.rows.copy()
        yield stretch.runs.take(rows[pool.draw(size).slots])


def hand_out_stage(order, stages, num_batches):
    """Return what all readers hand out until each rank has had some batches, and the stages afterwards."""
    *before, stage = stages
    after = [*before, StreamStage(stage.world_size, stage.num_workers, stage.num_batches + num_batches)]
    batches = []
    for reader in stage.readers():
        count = after[-1].count_done(reader.worker) - stage.count_done(reader.worker)
        batches += hand_out(order, stages, reader, count)
    return batches, after


@st.composite
def epochs(draw):
    batch_size = draw(st.integers(8, 40))
    pool_size = draw(st.sampled_from([0, batch_size, batch_size + 3, 100, 1000]))
    return EpochOrder(draw(st.integers(0, 300)), batch_size, pool_size, draw(st.booleans()), draw(st.integers(0, 9)))


stops = st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.integers(1, 3), st.integers(0, 12)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(epochs(), stops, st.sampled_from(WORLD_SIZES), st.integers(1, 3))
def test_readers_hand_out_each_position_once_stopped_at_any_step(order, stops, world_size, num_workers):
    stages, batches, left = [], [], order.num_batches
    for ranks, workers, count in stops:
        stages = begin_stage(stages, StreamStage(ranks, workers))
        part, stages = hand_out_stage(order, stages, min(count, left))
        left -= min(count, left)
        batches += part
    stages = begin_stage(stages, StreamStage(world_size, num_workers))
    part, _ = hand_out_stage(order, stages, left)
    event(f"{len(stages)} stages")

    positions = np.concatenate([np.empty(0, np.int64), *batches, *part])
    num_rows = order.num_rows - (order.num_rows % order.batch_size if order.drop_last else 0)
    assert sorted(positions.tolist()) == list(range(num_rows))


@settings(max_examples=100, deadline=None)
@given(epochs(), st.sampled_from(WORLD_SIZES), st.integers(1, 3), st.data())
def test_the_same_readers_go_on_with_the_batches_that_were_due(order, world_size, num_workers, data):
    stages = [StreamStage(world_size, num_workers)]
    stop = data.draw(st.integers(0, order.num_batches))
    _, stopped = hand_out_stage(order, stages, stop)

    for reader in stages[0].readers():
        whole = [batch.tolist() for batch in hand_out(order, stages, reader)]
        rest = [batch.tolist() for batch in hand_out(order, begin_stage(stopped, stages[0]), reader)]
        assert rest == whole[stopped[0].count_done(reader.worker) :]


def test_ranks_have_parts_of_each_batch_that_differ_by_one_at_most():
    order = EpochOrder(103, 20, 50, False, 0)
    stage = StreamStage(3, 1)

    sizes = np.array([order.stretch([stage], reader).sizes for reader in stage.readers()])

    assert sizes.tolist() == [[7] * 5 + [1], [7] * 5 + [1], [6] * 5 + [1]]


def test_stored_order_is_kept_by_one_reader():
    order = EpochOrder(103, 20, 0, False, 0)

    (reader,) = StreamStage().readers()
    assert np.concatenate(list(hand_out(order, [StreamStage()], reader))).tolist() == list(range(103))


def test_a_pool_mixes_as_far_as_it_reaches_and_depends_on_the_seed():
    def positions(seed):
        pool, order = PoolOrder(1000, 100, seed), []
        for _ in range(100):
            rows = pool.rows.copy()
            order += rows[pool.draw(10).slots].tolist()
        return order

    first = positions(1)
    assert sorted(first) == list(range(1000))
    assert first == positions(1) != positions(2)
    assert all(row < 110 + 10 * (place // 10) for place, row in enumerate(first))  # no row before it was read
    assert np.corrcoef(first, range(1000))[0, 1] < 0.995
    assert max(place - row for place, row in enumerate(first)) > 200  # some stay for long


@pytest.mark.parametrize(("size", "count"), [(0, 0), (5, 0), (5, 5), (1000, 10), (1000, 999), (41, 10)])
def test_draws_are_distinct_and_uniform(size, count):
    bits = np.random.PCG64(0)
    hits = np.zeros(size, int)
    for _ in range(2000):
        drawn = draw_distinct(bits, size, count)
        assert len(set(drawn.tolist())) == len(drawn) == count
        hits[drawn] += 1
    if size:
        expected = 2000 * count / size
        assert np.abs(hits - expected).max() <= 6 * np.sqrt(expected) + 1e-9


def test_the_numbers_are_those_of_every_numpy():
    assert draw_distinct(np.random.PCG64(3), 1000, 5).tolist() == [280, 861, 238, 484, 46]
    assert permute(6, 3).tolist() == [0, 4, 1, 5, 3, 2]


def test_runs_are_sequences_of_positions():
    positions = np.array([4, 5, 6, 1, 2, 9, 8])
    runs = Runs.of_positions(positions)

    assert runs.starts.tolist() == [4, 1, 9, 8]
    assert len(runs) == 7
    for first in range(8):
        for stop in range(first, 8):
            part = runs.slice(first, stop)
            assert part.take(np.arange(stop - first)).tolist() == positions[first:stop].tolist()
    assert len(Runs.of_positions(positions[:0])) == 0
