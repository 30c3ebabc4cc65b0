"""Leaves of a batch: where they lie in a gathered row, and the computations on some of them."""

import pytest
import torch

from rlhive.data.replay._leaves import (
    DiscountedSum,
    LeafLayout,
    LeafSplitter,
    NormalizeStep,
    TransformChain,
    contiguous_strides,
    join_frames,
)


def layout(name, offset, shape, strides=None):
    return LeafLayout((), name, offset, shape, strides or contiguous_strides(shape), None)


def test_strides_are_those_of_a_contiguous_tensor():
    assert contiguous_strides((4, 3, 2)) == torch.empty(4, 3, 2).stride()
    assert contiguous_strides(()) == ()


@pytest.mark.parametrize("with_gaps", [False, True])
def test_each_leaf_holds_the_elements_at_its_offset(with_gaps):
    rows = torch.arange(30).view(3, 10)
    leaves = [layout("pair", 0, (2,)), layout("matrix", 3 if with_gaps else 2, (2, 2)), layout("scalar", 8, ())]

    values = {leaf.name: value for leaf, value in LeafSplitter(leaves, 10).split(rows)}

    start = leaves[1].offset
    assert torch.equal(values["pair"], rows[:, :2])
    assert torch.equal(values["matrix"], rows[:, start : start + 4].reshape(3, 2, 2))
    assert torch.equal(values["scalar"], rows[:, 8])


def test_leaves_that_overlap_or_have_strides_are_views_of_the_same_rows():
    rows = torch.arange(24).view(2, 12)
    frames = layout("frames", 0, (3, 2), (4, 1))
    leaves = [layout("head", 0, (2,)), layout("tail", 10, (2,)), frames, layout("overlap", 1, (2,))]

    values = {leaf.name: value for leaf, value in LeafSplitter(leaves, 12).split(rows)}

    assert torch.equal(values["frames"], rows.view(2, 3, 4)[:, :, :2])
    assert torch.equal(values["overlap"], rows[:, 1:3])
    assert values["head"].data_ptr() == values["frames"].data_ptr() == rows.data_ptr()


def test_a_single_leaf_is_cut_out_of_a_wider_row():
    rows = torch.arange(12.0).view(2, 6)

    [(leaf, value)] = LeafSplitter([layout("only", 1, (2,))], 6).split(rows)

    assert leaf.name == "only"
    assert torch.equal(value, rows[:, 1:3])


def test_rewards_are_discounted_by_their_step():
    rewards = torch.tensor([[[1.0], [10.0], [100.0]], [[2.0], [0.0], [0.0]]])

    assert torch.equal(DiscountedSum(3, 0.5)(rewards), torch.tensor([[1 + 5 + 25.0], [2.0]]))


def test_normalised_values_are_new_tensors():
    value = torch.tensor([[3.0, 8.0]])

    normalized = NormalizeStep(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))(value)

    assert torch.equal(normalized, torch.tensor([[1.0, 2.0]]))
    assert torch.equal(value, torch.tensor([[3.0, 8.0]]))


def test_a_chain_applies_its_steps_in_order():
    chain = TransformChain([lambda value: value + 1, lambda value: value * 10])

    assert chain(torch.tensor(2)).item() == 30


def test_joined_frames_stand_oldest_first_along_the_last_dimension():
    frames = torch.arange(12).view(1, 3, 2, 2)  # three frames of two rows and two channels

    joined = join_frames(frames)

    assert torch.equal(joined, torch.cat([frames[:, 0], frames[:, 1], frames[:, 2]], -1))
    assert joined.is_contiguous()
    assert joined.data_ptr() != frames.data_ptr()
