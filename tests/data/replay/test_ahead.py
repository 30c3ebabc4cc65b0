"""Drawing ahead is never noticed: whatever is called in a loop, the batches are those of TorchRL's own buffer."""

import os
import signal
import time

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.envs.transforms import MultiStepTransform, Reward2GoTransform

from rlhive.data.replay._buffer import make_replay_buffer
from rlhive.data.replay._options import SamplingOptions
from rlhive.data.replay._storage import PackedStorage
from rlhive.errors import InvalidArgumentError, InvalidOptionError
from tests.data.replay.caches import LENGTHS, assert_same, write_cache

COUNT = sum(LENGTHS)
NUM_EXAMPLES = int(os.environ.get("RLHIVE_FUZZ", "15"))

SAMPLERS = {
    "random": RandomSampler,
    "once": SamplerWithoutReplacement,
    "once, whole batches": lambda: SamplerWithoutReplacement(drop_last=True),
    "in order": lambda: SamplerWithoutReplacement(shuffle=False),
    "slices": lambda: SliceSampler(slice_len=2),
    "priorities": lambda: PrioritizedSampler(COUNT, alpha=0.7, beta=0.9),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("ahead") / "cache")[0]


@pytest.fixture(scope="module")
def everything(cache):
    return PackedStorage(cache).read_all()


def ours(cache, sampler, **options):
    return make_replay_buffer(PackedStorage(cache), SamplingOptions(batch_size=6, sampler=sampler, seed=5, **options))


def stock(everything, sampler):
    storage = LazyTensorStorage(COUNT)
    storage.set(range(COUNT), everything)
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler,
        writer=ImmutableDatasetWriter(),
        batch_size=6,
        generator=torch.Generator().manual_seed(5),
    )


def double(batch):
    return batch.set("double", 2 * batch["action"])


class Driver:
    """Does the same things to a buffer, and keeps the batches."""

    def __init__(self, buffer):
        self.buffer, self.batches = buffer, []
        self.loop = iter(buffer)

    def do(self, operation):
        name, _, argument = operation.partition(" ")
        getattr(self, name)(argument)

    def loop_step(self, _):
        batch = next(self.loop, None)
        if batch is None:  # the epoch is over
            self.loop = iter(self.buffer)
            batch = next(self.loop)
        self.batches.append(batch)

    def sample(self, size):
        self.batches.append(self.buffer.sample(int(size)) if size else self.buffer.sample())

    def set_sampler(self, kind):
        sampler = SAMPLERS[kind]()
        sampler._rng = self.buffer._rng  # TorchRL leaves a later sampler without the buffer's generator
        self.buffer.set_sampler(sampler)
        if kind == "priorities":  # which TorchRL's constructor sets, and its set_sampler does not
            self.buffer._initialize_prioritized_sampler()

    def append(self, _):
        self.buffer.append_transform(double)

    def loop_again(self, _):
        self.loop = iter(self.buffer)

    def state(self, _):
        self.buffer.load_state_dict(self.buffer.state_dict())
        self.loop = iter(self.buffer)

    def ran_out(self, _):
        self.batches.append(self.buffer.sampler.ran_out)


OPERATIONS = [
    *["loop_step"] * 6,
    *("sample", "sample 4", "sample 14", "append", "loop_again", "state", "ran_out"),
    *(f"set_sampler {kind}" for kind in SAMPLERS),
]


@pytest.mark.filterwarnings("ignore:Got conflicting batch_sizes")
@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(
    kind=st.sampled_from(list(SAMPLERS)),
    prefetch=st.sampled_from([None, None, 1, 3]),
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=3, max_size=12),
)
def test_whatever_is_called_in_a_loop_the_batches_are_torchrls(cache, everything, kind, prefetch, operations):
    drivers = [Driver(ours(cache, SAMPLERS[kind](), prefetch=prefetch)), Driver(stock(everything, SAMPLERS[kind]()))]
    for operation in operations:
        if operation == "loop_step" and drivers[1].buffer._sampler.ran_out:  # see the test of epochs below
            operation = "loop_again"
        for driver in drivers:
            driver.do(operation)
    for got, expected in zip(drivers[0].batches, drivers[1].batches, strict=True):
        if isinstance(expected, bool):
            assert got == expected
        else:
            assert_same(got, expected)


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("also", ["sample", "sample 5", "state", "ran_out", "append"])
@pytest.mark.filterwarnings("ignore:Got conflicting batch_sizes")
def test_an_epoch_holds_every_transition_once_whatever_else_is_called(cache, also, prefetch):
    """TorchRL's loop goes on if another call begins the next epoch; ours ends with its own."""
    driver = Driver(ours(cache, SamplerWithoutReplacement(), prefetch=prefetch))
    for _ in range(3):
        seen = []
        for batch in driver.buffer:
            seen += batch["index"].tolist()
            if len(seen) < COUNT:
                driver.batches.clear()
                driver.do(also)
                seen += [
                    index for more in driver.batches if not isinstance(more, bool) for index in more["index"].tolist()
                ]
        assert sorted(seen) == list(range(COUNT))


def test_a_loop_whose_last_batch_others_take_ends_with_its_epoch(cache):
    buffer = ours(cache, SamplerWithoutReplacement())
    num_batches = 0
    for _ in buffer:
        num_batches += 1
        buffer.sample()
        buffer.sample()
        assert num_batches < 10
    assert num_batches == 2  # of six batches, the loop had the first and the fourth


@pytest.mark.parametrize("prefetch", [None, 2])
def test_a_transform_on_writing_that_is_appended_acts_from_then_on(cache, prefetch):
    buffer, plain = (ours(cache, RandomSampler(), prefetch=prefetch) for _ in range(2))
    loop, expected_loop = iter(buffer), iter(plain)
    for _ in range(2):
        assert_same(next(loop), next(expected_loop))

    buffer.append_transform(MultiStepTransform(3, 0.9))
    buffer.insert_transform(0, Reward2GoTransform(0.5, out_keys=["to_go"]))

    n_step = PackedStorage(cache, window=buffer.storage.window, return_to_go=0.5)
    for _ in range(20):
        got, index = next(loop), next(expected_loop)["index"]
        assert_same(got.exclude("index").rename_key_("to_go", "return_to_go"), n_step.get(index))
    assert buffer.storage.window.n_step == 3
    with pytest.raises(InvalidOptionError, match="computes n-step returns already"):
        buffer.append_transform(MultiStepTransform(2, 0.9))
    with pytest.raises(InvalidOptionError, match="expected reward_keys"):
        ours(cache, RandomSampler(), transform=MultiStepTransform(2, 0.9, reward_keys=["other"]))
    with pytest.raises(InvalidOptionError, match="expected in_keys_inv"):
        plain.append_transform(Reward2GoTransform(in_keys=["other"]))


def test_samplers_of_other_libraries_lose_no_batch(cache):
    class Counting(SamplerWithoutReplacement):
        count = 0

        def sample(self, storage, batch_size):
            self.count += 1
            return torch.full((batch_size,), self.count), {}

    buffer = ours(cache, Counting(), prefetch=3)
    got = [int(buffer.sample()["index"][0]) for _ in range(4)]
    other = int(buffer.sample(2)["index"][0])
    got += [int(buffer.sample()["index"][0]) for _ in range(4)]

    assert sorted([*got, other]) == sorted({*got, other})
    assert set(range(1, 8)) <= {*got, other}
    buffer.set_sampler(SamplerWithoutReplacement(shuffle=False))
    assert buffer.sample()["index"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("how", ["update_priority", "update_tensordict_priority"])
def test_a_priority_that_is_no_number_is_refused(cache, bad, how):
    buffer, untouched = (ours(cache, PrioritizedSampler(COUNT, alpha=0.7, beta=0.9)) for _ in range(2))
    priorities = torch.linspace(0.1, 5, COUNT)
    for each in (buffer, untouched):
        each.update_priority(torch.arange(COUNT), priorities)
    priorities[3] = bad

    batch = buffer[:].set("td_error", priorities).set("index", torch.arange(COUNT))
    arguments = (torch.arange(COUNT), priorities) if how == "update_priority" else (batch,)
    with pytest.raises(InvalidArgumentError, match=f"got {bad} at position 3 of {COUNT}"):
        getattr(buffer, how)(*arguments)

    assert_same(buffer.sample(), untouched.sample())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("prefetch", [None, 2])
def test_a_fork_in_a_loop_goes_on_in_both_processes(cache, prefetch):
    buffer, plain = ours(cache, RandomSampler(), prefetch=prefetch), ours(cache, RandomSampler())
    expected = [plain.sample()["index"].tolist() for _ in range(40)]
    loop = iter(buffer)
    assert [next(loop)["index"].tolist() for _ in range(3)] == expected[:3]
    torch.randn(400, 400) @ torch.randn(400, 400)  # torch's threads run
    pid = os.fork()
    if not pid:
        os._exit(0 if [next(loop)["index"].tolist() for _ in range(37)] == expected[3:] else 1)
    deadline = time.monotonic() + 30
    while not (status := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.01)
    assert status[1] == 0
    assert [next(loop)["index"].tolist() for _ in range(37)] == expected[3:]
