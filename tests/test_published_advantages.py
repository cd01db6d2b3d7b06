"""Advantages beyond centring: modes, exponentials, ends of a group, several rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ablate.advantages.best_worst import BestWorst
from ablate.advantages.exponential import Exponential
from ablate.advantages.per_reward import PerReward
from ablate.advantages.quasi_norm import QuasiNorm
from ablate.advantages.reshaped import Clipped, Power, Softplus
from ablate.advantages.zscore import ZScoreGlobal, ZScoreGroup
from ablate.distributed import Distributed
from ablate.judge import judge
from ablate.protocols import Policy
from ablate.types import Prompt, Rollout

Make = Callable[..., Any]
SIZE = 4
scores = st.floats(-100, 100, width=32)
rewards_of = st.integers(1, 5).flatmap(lambda g: st.lists(scores, min_size=SIZE * g, max_size=SIZE * g))


def labelled(rewards: list[float]) -> tuple[Tensor, Tensor]:
    values = torch.tensor(rewards)
    return values, torch.arange(len(values) // SIZE).repeat_interleave(SIZE) + 10


@pytest.fixture
def rollout() -> Rollout:
    """Two groups of three with endpoints 0 .. 5."""
    group = torch.tensor([4, 4, 4, 7, 7, 7])
    return Rollout(torch.arange(6.0)[:, None].expand(6, 2), group, torch.arange(6), {}, "old")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("positive_only", lambda a: max(a, 0.0)),
        ("negative_only", lambda a: min(a, 0.0)),
        ("one_only", lambda a: float(a > 0)),
        ("binary", lambda a: float((a > 0) - (a < 0))),
    ],
)
@given(rewards=rewards_of)
def test_modes_of_diffusion_nft(part: Make, name: str, expected: Any, rewards: list[float]) -> None:
    values, group = labelled(rewards)
    found, base = part("advantage", name)(values, group), ZScoreGlobal()(values, group)
    assert found.tolist() == [expected(a) for a in base.tolist()]


@given(rewards=rewards_of)
def test_awm_divides_by_its_clip(part: Make, rewards: list[float]) -> None:
    values, group = labelled(rewards)
    torch.testing.assert_close(part("advantage", "awm")(values, group), ZScoreGlobal()(values, group) / 5)


@given(rewards=rewards_of, temperature=st.floats(0.3, 3))
def test_exponential_credit(rewards: list[float], temperature: float) -> None:
    """exp(R/gamma)/mean - 1 in [-1, G - 1]; and its standard deviation is 1 where that is asked for."""
    values, group = labelled(rewards)
    table = np.array(rewards, dtype=np.float64).reshape(-1, SIZE)
    weight = np.exp((table - table.max(1, keepdims=True)) / (temperature * max(table.std(), 1e-6)))
    expected = (weight / weight.mean(1, keepdims=True) - 1).ravel()
    found = Exponential(temperature)(values, group)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert float(found.min()) >= -1 and float(found.max()) <= SIZE - 1
    unit = Exponential(temperature, standardize=True)(values, group)
    np.testing.assert_allclose(unit, expected / max(expected.std(), 1e-2), rtol=1e-4, atol=1e-5)


def test_exponential_credit_is_linear_when_hot() -> None:
    values, group = labelled([0.0, 1.0, 2.0, 5.0, 3.0, 3.0, 4.0, 9.0])
    hot = Exponential(1e4)(values, group) * 1e4
    torch.testing.assert_close(hot, ZScoreGlobal(floor=1e-9)(values, group), rtol=1e-2, atol=1e-2)
    unit = Exponential(1e4, standardize=True)(values, group)  # its deviation, 1e-4, counts as 1e-2
    torch.testing.assert_close(unit, hot / 1e4 / 1e-2)


@given(rewards=rewards_of, power=st.floats(0.3, 3))
def test_quasi_norm(rewards: list[float], power: float) -> None:
    """a_i / (sum |a|^p)^(1/p) of the centred rewards; power 2 is the z-score over sqrt(G)."""
    values, group = labelled(rewards)
    table = np.array(rewards, dtype=np.float64).reshape(-1, SIZE)
    centred = table - table.mean(1, keepdims=True)
    norm = (np.abs(centred) ** power).sum(1, keepdims=True) ** (1 / power)
    expected = (0.5 * centred / np.maximum(norm, 1e-6)).ravel()
    np.testing.assert_allclose(QuasiNorm(power, 0.5)(values, group), expected, rtol=1e-4, atol=1e-5)
    assume(float(table.std(1).min()) > 0.1)
    score = ZScoreGroup(clip=1e9, floor=1e-12)(values, group) / SIZE**0.5
    torch.testing.assert_close(QuasiNorm(2.0)(values, group), score, rtol=1e-4, atol=1e-5)


def test_a_small_power_damps_groups_without_an_outlier() -> None:
    values, group = labelled([0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    best = [QuasiNorm(p)(values, group).view(2, SIZE).amax(1) for p in (2.0, 0.8)]
    assert float(best[1][1] / best[1][0]) < float(best[0][1] / best[0][0]) < 1


@given(rewards=rewards_of)
def test_ram_does_not_clip(part: Make, rewards: list[float]) -> None:
    values, group = labelled([*rewards[1:], 1e4])
    assert torch.equal(part("advantage", "ram")(values, group), ZScoreGlobal(clip=1e9)(values, group))
    far = part("advantage", "ram")(torch.tensor([0.0] * 63 + [1.0]), torch.zeros(64).long())
    assert float(far.max()) > 5


@given(rewards=rewards_of)
def test_increasing_maps_of_credit(part: Make, rewards: list[float]) -> None:
    values, group = labelled(rewards)
    base = ZScoreGlobal()(values, group)
    maps = {
        "power": lambda a: math.copysign(math.sqrt(abs(a)), a),
        "softplus": lambda a: 2 * (math.log1p(math.exp(a)) - math.log(2)),
        "clipped": lambda a: min(max(a, -1.0), 5.0),
    }
    for name, expected in maps.items():
        found = part("advantage", name)(values, group)
        np.testing.assert_allclose(found, [expected(a) for a in base.tolist()], rtol=1e-5, atol=1e-6)
        assert (found[base.argsort()].diff() >= 0).all()


def test_best_and_worst_share_among_equals() -> None:
    values, group = labelled([0.0, 1.0, 2.0, 5.0, 3.0, 3.0, 4.0, 4.0, 7.0, 7.0, 7.0, 7.0])
    found = BestWorst()(values, group)
    assert found.tolist() == [-1, 0, 0, 1, -0.5, -0.5, 0.5, 0.5, 0, 0, 0, 0]


WEIGHTS = torch.tensor([1.0, 0.25])


def two_rewards(rewards: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """A reward, another of a hundredth of its spread, and the groups."""
    values, group = labelled(rewards)
    return torch.stack([values, 0.01 * values.flip(0)], 1), WEIGHTS, group


@given(rewards=rewards_of)
def test_rewards_are_compared_one_by_one(part: Make, rewards: list[float]) -> None:
    """sum_k w_k A_k; GDPO's has standard deviation 1."""
    each, weights, group = two_rewards(rewards)
    score = ZScoreGroup()
    expected = score(each[:, 0], group) + 0.25 * score(each[:, 1], group)
    torch.testing.assert_close(part("advantage", "mixgrpo").combine(each, weights, group), expected)
    unit = part("advantage", "gdpo").combine(each, weights, group)
    assume(float(expected.std()) > 0.1)
    torch.testing.assert_close(unit, expected / expected.std(correction=0))


def test_a_small_reward_is_not_drowned(part: Make) -> None:
    """In the total only the wide reward shows, one by one both do."""
    each, weights, group = two_rewards([0.0, 100.0, 0.0, 100.0, 0.0, 0.0, 100.0, 100.0])
    total = ZScoreGroup()((each * weights).sum(1), group)
    apart = part("advantage", "mixgrpo").combine(each, weights, group)
    torch.testing.assert_close(total, ZScoreGroup()(each[:, 0], group), rtol=0, atol=1e-2)
    assert float((apart - total).abs().max()) > 0.2


def test_the_judge_shows_each_reward_to_who_asks(
    part: Make, policy: Policy, distributed: Distributed, rollout: Rollout
) -> None:
    prompts = [Prompt(f"mode {n}", "mode") for n in range(6)]
    credit = {
        name: judge(
            policy, TwoRewards(), part("advantage", name), rollout, prompts, chunk=4, distributed=distributed
        )[0]
        for name in ("mixgrpo", "zscore_group")
    }
    a, b = (axis * rollout.x0[:, 0] for axis in (1.0, -0.01))
    score = ZScoreGroup()
    torch.testing.assert_close(
        credit["mixgrpo"].advantage, 2 * score(a, rollout.group) + 0.5 * score(b, rollout.group)
    )
    torch.testing.assert_close(credit["zscore_group"].advantage, score(2 * a + 0.5 * b, rollout.group))
    assert torch.equal(credit["mixgrpo"].reward, credit["zscore_group"].reward)


@dataclass(frozen=True)
class TwoRewards:
    """The first coordinate, a hundredth of it upside down, and a third that is only recorded."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"b": 0.5, "a": 2.0})
    headline: str = "a"

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return {"a": images[:, 0], "idle": images[:, 1] ** 2, "b": -0.01 * images[:, 0]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Power(0.0), "reshape.exponent = 0.0 must be positive"),
        (lambda: Softplus(-1.0), "reshape.temperature = -1.0 must be positive"),
        (lambda: Clipped(0.5, 1.0), "reshape.low = 0.5 and high = 1.0"),
        (lambda: Clipped(0.0, 0.0), "reshape.low = 0.0 and high = 0.0"),
        (lambda: QuasiNorm(0.0), "advantage.power = 0.0 must be positive"),
        (lambda: QuasiNorm(scale=math.nan), "advantage.scale = nan must be positive"),
    ],
)
def test_maps_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [Exponential, QuasiNorm, lambda floor: PerReward(ZScoreGroup(), floor=floor)]
)
def test_a_floor_must_be_positive(make: Make) -> None:
    with pytest.raises(ValueError, match="floor = 0.0"):
        make(floor=0.0)
