"""Which prompts, in which groups: a pure function of seed and iteration, whatever the processes."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from ablate.prompt_order import prompt_slots


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 9), st.integers(0, 5))
def test_every_prompt_once_before_any_twice(total: int, count: int, epoch: int, seed: int) -> None:
    slots = [slot for i in range(40) for slot in prompt_slots(total, count, i, seed)]
    first = epoch * total
    if first + total <= len(slots):
        assert sorted(slots[first : first + total]) == list(range(total))
    assert all(abs(n - m) <= 1 for n in Counter(slots).values() for m in [len(slots) // total])


@given(st.integers(2, 40), st.integers(1, 17), st.integers(0, 99))
def test_iterations_are_had_again_in_any_order(total: int, count: int, iteration: int) -> None:
    again = prompt_slots(total, count, iteration, seed=3)
    assert again == prompt_slots(total, count, iteration, seed=3)
    assert len(again) == count


def test_seeds_differ() -> None:
    orders = {tuple(prompt_slots(30, 30, 0, seed)) for seed in range(5)}
    assert len(orders) == 5


def test_order_is_not_the_datasets() -> None:
    assert torch.tensor(prompt_slots(100, 100, 0, 0)).diff().abs().float().mean() > 10
