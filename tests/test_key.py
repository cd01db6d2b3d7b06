"""Names for randomness: an address is a draw, and different addresses are different draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablate.key import Draws, Key
from ablate.starts.noise import Noise

words = st.lists(st.one_of(st.integers(0, 10**9), st.text("abcxyz_", min_size=1)), min_size=1, max_size=4)
rows = st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True)
KINDS: dict[str, Callable[[Draws], Tensor]] = {
    "normal": lambda draws: draws.normal(3, 2),
    "uniform": lambda draws: draws.uniform(5),
    "permutation": lambda draws: draws.permutation(7),
    "scalar": lambda draws: draws.uniform(),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@given(address=words, numbers=rows)
def test_the_same_address_gives_the_same_bits(
    kind: str, address: list[int | str], numbers: list[int]
) -> None:
    index = torch.tensor(numbers)
    one = KINDS[kind](Key(tuple(address)).rows(index))
    torch.rand(3)  # what anybody else draws in between
    two = KINDS[kind](Key().of(*address).rows(index))
    assert torch.equal(one, two)


@each_kind
@given(address=words, numbers=rows)
def test_a_row_does_not_see_its_batch(kind: str, address: list[int | str], numbers: list[int]) -> None:
    key, index = Key(tuple(address)), torch.tensor(numbers)
    together = KINDS[kind](key.rows(index))
    apart = torch.cat([KINDS[kind](key.rows(index[i : i + 1])) for i in range(len(index))])
    assert torch.equal(together, apart)
    assert torch.equal(KINDS[kind](key.rows(index.flip(0))), together.flip(0))


@given(one=words, two=words, number=st.integers(0, 2**40))
def test_different_addresses_differ(one: list[int | str], two: list[int | str], number: int) -> None:
    """Of the same words in another order or split, and of the next row, too."""
    index = torch.tensor([number])
    draw = Key(tuple(one)).rows(index).normal(4)
    same = [str(word) for word in one] == [str(word) for word in two]
    assert torch.equal(Key(tuple(two)).rows(index).normal(4), draw) == same
    assert not torch.equal(Key(tuple(one)).rows(index + 1).normal(4), draw)
    assert not torch.equal(Key(tuple(one)).of("x").rows(index).normal(4), draw)


def test_below_and_beside() -> None:
    """``of`` goes down, ``rows`` goes sideways, and both commute."""
    key, index = Key((0, 3)), torch.tensor([5, 6])
    assert torch.equal(key.of("a", 1).rows(index).normal(2), key.rows(index).of("a").of(1).normal(2))
    assert torch.equal(
        key.rows(index).rows(torch.tensor([9])).normal(2), key.rows(torch.tensor([9])).normal(2)
    )


def test_neighbours_are_independent() -> None:
    """Consecutive rows, steps, iterations and seeds are uncorrelated: |r| < 5/sqrt(n) for all pairs."""
    count = 20_000
    index = torch.arange(6)
    for line in (
        Key((0, 0)).rows(index).normal(count),
        torch.cat([Key((0, i)).rows(index[:1]).normal(count) for i in range(6)]),
        torch.cat([Key((i, 0)).rows(index[:1]).normal(count) for i in range(6)]),
        torch.cat([Key((0, 0, "step", i)).rows(index[:1]).normal(count) for i in range(6)]),
    ):
        correlation = torch.corrcoef(line) - torch.eye(6)
        assert float(correlation.abs().max()) < 5 / count**0.5


def test_moments() -> None:
    """Of 200 rows of 500: mean, variance and, for normals, the fourth moment within 5 standard errors."""
    draws, n = Key((1,)).rows(torch.arange(200)), 100_000
    normal, uniform = draws.normal(500), draws.uniform(500)
    assert abs(float(normal.mean())) < 5 / n**0.5
    assert abs(float(normal.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float(normal.pow(4).mean()) - 3) < 5 * (96 / n) ** 0.5
    assert abs(float(uniform.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(float(uniform.var()) - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    assert uniform.min() >= 0 and uniform.max() < 1
    first = Key((2,)).rows(torch.arange(20_000)).normal().flatten()  # one draw of each of many rows
    assert (
        abs(float(first.mean())) < 5 / 20_000**0.5 and abs(float(first.var()) - 1) < 5 * (2 / 20_000) ** 0.5
    )


@given(length=st.integers(1, 40), number=st.integers(0, 10**6))
def test_a_permutation_is_one(length: int, number: int) -> None:
    order = Key((0,)).rows(torch.tensor([number])).permutation(length)
    assert sorted(order[0].tolist()) == list(range(length))


def test_permutations_are_uniform() -> None:
    """Each of the 6 orders of 3 items in a sixth of 6,000 rows, within 5 standard errors."""
    orders = Key((4,)).rows(torch.arange(6000)).permutation(3)
    _, counts = torch.unique(orders, dim=0, return_counts=True)
    assert len(counts) == 6
    assert float((counts - 1000).abs().max()) < 5 * (6000 / 6 * 5 / 6) ** 0.5


def test_draws_that_belong_to_no_sample() -> None:
    """A generator by address, fresh each time."""
    one, two = (torch.rand(4, generator=Key((0, "prompts")).generator()) for _ in range(2))
    other = torch.rand(4, generator=Key((1, "prompts")).generator())
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("spread", [0.0, 0.0706, 0.3, 1.0])
def test_start_noise(spread: float) -> None:
    """Standard normal for every spread, correlated 1 - spread^2 within a group and 0 across groups."""
    group, count = torch.tensor([7, 7, 8, 8]), 40_000
    x = Noise(spread)(group, (count,), Key((0,)).rows(torch.arange(4)))
    assert float((x.std(1) - 1).abs().max()) < 5 / (2 * count) ** 0.5
    correlation = torch.corrcoef(x)
    within = torch.tensor([correlation[0, 1], correlation[2, 3]])
    assert float((within - (1 - spread**2)).abs().max()) < 5 / count**0.5
    assert float(correlation[:2, 2:].abs().max()) < 5 / count**0.5
    if spread == 0:
        assert torch.equal(x[0], x[1])


def test_a_start_has_the_noise_of_its_sample() -> None:
    """Alone or in company, a sample starts where it starts."""
    group, numbers = torch.tensor([3, 3, 4]), torch.tensor([10, 11, 12])
    whole = Noise(0.5)(group, (2, 2), Key((0,)).rows(numbers))
    assert torch.equal(Noise(0.5)(group[1:2], (2, 2), Key((0,)).rows(numbers[1:2])), whole[1:2])


@pytest.mark.parametrize("spread", [-0.1, 1.1, float("nan")])
def test_a_spread_outside_its_range_is_refused(spread: float) -> None:
    with pytest.raises(ValueError, match=r"start.spread = .* must lie in \[0, 1\]"):
        Noise(spread)
