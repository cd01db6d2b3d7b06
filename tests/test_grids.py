"""Time grids: the published numbers, diffusers' own, and what any grid must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from ablate.samplers.grids import AWM, Double, Grid, Sana, Single

DOUBLE_10 = [1, 0.96013, 0.91335, 0.85769, 0.79037, 0.70728, 0.60215, 0.46488, 0.27805, 0.00893, 0]
DOUBLE_14 = [
    *(1, 0.97306, 0.94305, 0.90941, 0.87145, 0.82828, 0.77874, 0.72131),
    *(0.65394, 0.57381, 0.47691, 0.35737, 0.20620, 0.00893, 0),
]
SINGLE_10 = [1, 0.96429, 0.92308, 0.875, 0.81818, 0.75, 0.66667, 0.5625, 0.42857, 0.25, 0]
SINGLE_16 = [
    *(1, 0.97826, 0.95455, 0.92857, 0.9, 0.86842, 0.83333, 0.79412, 0.75),
    *(0.7, 0.64286, 0.57692, 0.5, 0.40909, 0.3, 0.16667, 0),
]
SANA_10 = [0.99967, 0.96394, 0.92272, 0.87464, 0.81781, 0.74962, 0.66630, 0.56215, 0.42827, 0.24979, 0]
GRIDS = (Double, Single, Sana, AWM)
steps = st.integers(1, 200)
shifts = st.floats(0.1, 20.0)


@pytest.mark.parametrize(
    ("grid", "published"),
    [
        (Double(3.0), DOUBLE_10),
        (Double(3.0), DOUBLE_14),
        (Single(3.0), SINGLE_10),
        (Single(3.0), SINGLE_16),
        (Sana(3.0), SANA_10),
    ],
    ids=["double-10", "double-14", "single-10", "single-16", "sana-10"],
)
def test_published_numbers(grid: Grid, published: list[float]) -> None:
    expected = torch.tensor(published, dtype=torch.float64)
    torch.testing.assert_close(grid(len(published) - 1), expected, rtol=0, atol=5.1e-6)


def test_ends_of_double_40() -> None:
    grid = Double(3.0)(40)
    head = torch.tensor([1, 0.99133, 0.98236, 0.97306], dtype=torch.float64)
    tail = torch.tensor([0.14651, 0.08105, 0.00893, 0], dtype=torch.float64)
    torch.testing.assert_close(grid[:4], head, rtol=0, atol=5.1e-6)
    torch.testing.assert_close(grid[-4:], tail, rtol=0, atol=5.1e-6)


@pytest.mark.parametrize("num_steps", [2, 4, 10, 14, 28, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_double_is_what_diffusers_samples_on(num_steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    torch.testing.assert_close(Double(shift)(num_steps).float(), scheduler.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", GRIDS)
@given(num_steps=steps, shift=shifts)
def test_strictly_decreasing_to_zero(make: Callable[[float], Grid], num_steps: int, shift: float) -> None:
    grid = make(shift)(num_steps)
    assert grid.shape == (num_steps + 1,) and grid.dtype == torch.float64
    assert (grid.diff() < 0).all()
    assert grid[-1] == 0
    assert grid[0] == 1 if make in (Double, Single) else 0.999 > 1 - grid[0] > 0


@given(num_steps=steps)
def test_shift_one_is_uniform(num_steps: int) -> None:
    uniform = torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps
    torch.testing.assert_close(Single(1.0)(num_steps), uniform, rtol=0, atol=1e-12)
    torch.testing.assert_close(Sana(1.0)(num_steps), 0.999 * uniform, rtol=0, atol=1e-12)
    inner = Double(1.0)(num_steps)[:-1].diff()
    torch.testing.assert_close(inner, inner.mean().expand_as(inner), rtol=0, atol=1e-12)


@given(num_steps=st.integers(2, 100), shift=st.floats(1.5, 20.0))
def test_a_shift_above_one_spends_steps_on_noise(num_steps: int, shift: float) -> None:
    assert (Single(shift)(num_steps)[1:-1] > Single(1.0)(num_steps)[1:-1]).all()


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize("shift", [0.0, -3.0, float("nan")])
def test_a_shift_that_is_not_positive_is_refused(make: Callable[[float], Grid], shift: float) -> None:
    with pytest.raises(ValueError, match=r"shift = .* must be positive"):
        make(shift)(10)


@pytest.mark.parametrize("make", GRIDS)
@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_are_refused(make: Callable[[float], Grid], num_steps: int) -> None:
    with pytest.raises(ValueError, match=r"num_steps = .* must be at least 1"):
        make(3.0)(num_steps)
