"""Advantages and group statistics: properties that hold for every way to give credit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pieces import draws
from torch import Tensor

from ablate.advantages.centered import Centered
from ablate.advantages.zscore import ZScoreGlobal, ZScoreGroup, ZScorePooled
from ablate.groups import batches, feedback_of, group_max, group_mean, group_std, group_sum, zero_std_share
from ablate.types import Feedback, Rollout

Make = Callable[..., Any]
SIZE = 4
scores = st.floats(-100, 100, width=32)
rewards_of = st.integers(1, 5).flatmap(lambda g: st.lists(scores, min_size=SIZE * g, max_size=SIZE * g))


NOT_CENTRED = {  # reshaped, element by element
    "positive_only",
    "negative_only",
    "one_only",
    "binary",
    "power",
    "softplus",
    "clipped",
}
NOT_BY_SIZE = {
    "exponential",
    "best_worst",
    "mixgrpo",
    "gdpo",
    "quasi_norm",
    *NOT_CENTRED,
}  # no clip and no scale of their own


def unclipped(part: Make, name: str) -> Any:
    """The option, its clip out of the way if it has one."""
    return part("advantage", name) if name in NOT_BY_SIZE else part("advantage", name, clip=1e9)


def labelled(rewards: list[float]) -> tuple[Tensor, Tensor]:
    values = torch.tensor(rewards)
    return values, torch.arange(len(values) // SIZE).repeat_interleave(SIZE) + 10


@given(rewards=rewards_of)
def test_credit_is_zero_in_the_mean_of_a_group(part: Make, each_advantage: str, rewards: list[float]) -> None:
    values, group = labelled(rewards)
    credit = unclipped(part, each_advantage)(values, group)
    assert credit.shape == values.shape and credit.dtype == torch.float32 and credit.isfinite().all()
    if each_advantage in NOT_CENTRED:
        return
    mean = credit.double().view(-1, SIZE).mean(1)
    bound = 1e-6 * credit.abs().max().double().clamp(min=1e-6)  # rounding of the fp32 result
    assert (mean.abs() <= bound).all()


@given(value=scores, size=st.integers(2, 300), groups=st.integers(1, 3))
def test_equal_rewards_give_exactly_nothing(
    part: Make, each_advantage: str, value: float, size: int, groups: int
) -> None:
    """Also after a mean over hundreds of them, and whatever the other groups did."""
    values = torch.full((groups, size), value)
    other = torch.linspace(-1, 1, size)[None]
    group = torch.arange(groups + 1).repeat_interleave(size)
    credit = part("advantage", each_advantage)(torch.cat([values, other]).flatten(), group)
    assert torch.equal(credit[: groups * size], torch.zeros(groups * size))
    assert credit[groups * size :].any()


@given(rewards=rewards_of, shift=st.sampled_from([-64.0, 1.0, 1024.0, 1048576.0]))
def test_a_shift_of_the_rewards_changes_nothing(
    part: Make, each_advantage: str, rewards: list[float], shift: float
) -> None:
    """Rewards on a grid of 1/8, so that the shift itself is exact in fp32."""
    values, group = labelled([round(8 * r) / 8 for r in rewards])
    advantage = unclipped(part, each_advantage)
    found, expected = advantage(values + shift, group), advantage(values, group)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)


@given(rewards=rewards_of, factor=st.sampled_from([0.25, 2.0, 64.0]))
def test_scale_of_the_rewards(part: Make, rewards: list[float], factor: float) -> None:
    """z-scores forget it (the floor aside), centred rewards keep it."""
    values, group = labelled(rewards)
    assume(group_std(values.double(), group).min() > 1)
    for make in (ZScoreGroup, ZScoreGlobal):
        score = make(clip=1e9, floor=1e-12)
        torch.testing.assert_close(score(factor * values, group), score(values, group), rtol=1e-5, atol=1e-6)
    centred = Centered(0.1)
    torch.testing.assert_close(centred(factor * values, group), factor * centred(values, group))
    torch.testing.assert_close(Centered(0.3)(values, group), 3 * centred(values, group))


@given(rewards=rewards_of, seed=st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter(
    part: Make, each_advantage: str, rewards: list[float], seed: int
) -> None:
    values, group = labelled(rewards)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    advantage = part("advantage", each_advantage)
    found, expected = advantage(values[order], group[order]), advantage(values, group)[order]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@given(rewards=rewards_of, bound=st.floats(0.1, 3))
def test_the_clip_bounds_the_credit(
    part: Make, each_advantage: str, rewards: list[float], bound: float
) -> None:
    """And is applied before the scale, so that the scale is only a scale."""
    if each_advantage in NOT_BY_SIZE:
        return
    values, group = labelled(rewards)
    free = part("advantage", each_advantage, clip=1e9, scale=1.0)(values, group)
    held = part("advantage", each_advantage, clip=bound, scale=0.5)(values, group)
    torch.testing.assert_close(held, 0.5 * free.clamp(-bound, bound))


@given(rewards=rewards_of)
def test_against_numpy(rewards: list[float]) -> None:
    """(R - mean)/(std + 1e-4): population std, of the group or of all rewards; the mean is the group's."""
    values, group = labelled(rewards)
    table = np.array(rewards, dtype=np.float64).reshape(-1, SIZE)
    centred = table - table.mean(1, keepdims=True)
    by_group = np.clip(centred / (table.std(1, keepdims=True) + 1e-4), -5, 5)
    over_all = np.clip(centred / (table.std() + 1e-4), -5, 5)
    np.testing.assert_allclose(ZScoreGroup()(values, group), by_group.ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ZScoreGlobal()(values, group), over_all.ravel(), rtol=1e-5, atol=1e-6)
    pooled = np.clip(centred / (np.sqrt((centred**2).mean()) + 1e-4), -5, 5)
    np.testing.assert_allclose(ZScorePooled()(values, group), pooled.ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Centered(0.1)(values, group), 0.1 * centred.ravel(), rtol=1e-5, atol=1e-6)


def test_a_million_does_not_cost_precision(part: Make, each_advantage: str) -> None:
    """In fp32 the mean of 512 rewards near 1e6 is off by more than they differ."""
    small = torch.arange(512.0) % 7 / 16
    group = torch.arange(2).repeat_interleave(256)
    advantage = part("advantage", each_advantage)
    torch.testing.assert_close(advantage(small + 1e6, group), advantage(small, group), rtol=1e-5, atol=1e-6)


def test_wider_rewards_weigh_more_globally_but_not_by_group() -> None:
    values = torch.tensor([0.0, 1.0, 0.0, 10.0])
    group = torch.tensor([0, 0, 1, 1])
    by_group, over_all = ZScoreGroup(floor=1e-9)(values, group), ZScoreGlobal(floor=1e-9)(values, group)
    assert by_group.tolist() == pytest.approx([-1, 1, -1, 1])
    assert float(over_all[3] / over_all[1]) == pytest.approx(10)


@pytest.mark.parametrize("make", [ZScoreGroup, ZScoreGlobal, ZScorePooled, Centered])
@pytest.mark.parametrize("field", ["scale", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_numbers_that_are_not_positive_are_refused(make: Make, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"advantage.{field} = .* must be positive"):
        make(**{field: value})


@given(rewards=rewards_of)
def test_group_statistics(rewards: list[float]) -> None:
    values, group = labelled(rewards)
    table = np.array(rewards, dtype=np.float64).reshape(-1, SIZE)
    mean, std = group_mean(values.double(), group), group_std(values.double(), group)
    np.testing.assert_allclose(mean, table.mean(1).repeat(SIZE), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, table.std(1).repeat(SIZE), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(group_max(values, group), table.max(1).repeat(SIZE))
    total = table.sum(1).repeat(SIZE)
    np.testing.assert_allclose(group_sum(values.double(), group), total, rtol=1e-9, atol=1e-9)
    assert zero_std_share(values, group) == pytest.approx(np.mean(np.ptp(table, axis=1) == 0))


def test_group_statistics_follow_labels_not_places() -> None:
    """Labels in any order, with gaps, and groups of different sizes."""
    values, group = torch.tensor([1.0, 5.0, 3.0, 7.0, 2.0]), torch.tensor([9, 2, 9, 2, 40])
    assert group_mean(values, group).tolist() == [2, 6, 2, 6, 2]
    assert group_std(values, group).tolist() == [1, 1, 1, 1, 0]
    assert zero_std_share(values, group) == pytest.approx(1 / 3)


def test_batches_cover_the_index_in_order() -> None:
    parts = list(batches(torch.arange(10, 22), 4))
    assert [part.tolist() for part in parts] == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19, 20, 21]]


@pytest.fixture
def rollout() -> Rollout:
    """Two groups of three with endpoints 0 .. 5."""
    group = torch.tensor([4, 4, 4, 7, 7, 7])
    return Rollout(torch.arange(6.0)[:, None].expand(6, 2), group, torch.arange(6), {}, "old")


@pytest.mark.parametrize("scope", ["sample", "siblings", "group"])
def test_feedback_of_a_micro_batch(rollout: Rollout, scope: Any) -> None:
    """Rows in the order of the index; siblings, only where asked for, the row first, then all the others."""
    feedback = Feedback(10 + torch.arange(6.0), torch.arange(6.0) / 10, rollout.group)
    index = torch.tensor([5, 1])
    found = feedback_of(feedback, rollout, index, torch.zeros(2).long(), scope)
    assert found.reward.tolist() == [15, 11] and found.group.tolist() == [7, 4]
    torch.testing.assert_close(found.advantage, torch.tensor([0.5, 0.1]))
    assert (found.siblings is not None) == (scope == "siblings")
    if found.siblings is not None:
        assert found.siblings.x0[:, :, 0].tolist() == [[5, 3, 4], [1, 0, 2]]
        torch.testing.assert_close(found.siblings.advantage, torch.tensor([[0.5, 0.3, 0.4], [0.1, 0.0, 0.2]]))


def test_credit_per_step_is_read_at_the_querys_step(rollout: Rollout) -> None:
    """For the row and, at that same step, for its siblings."""
    by_step = draws(6).normal(10)
    feedback = Feedback(torch.zeros(6), by_step, rollout.group)
    index, k = torch.tensor([5, 1]), torch.tensor([9, 3])
    found = feedback_of(feedback, rollout, index, k, "siblings")
    assert torch.equal(found.advantage, torch.stack([by_step[5, 9], by_step[1, 3]]))
    assert found.siblings is not None
    assert torch.equal(found.siblings.advantage, torch.stack([by_step[[5, 3, 4], 9], by_step[[1, 0, 2], 3]]))
