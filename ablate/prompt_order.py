"""Which prompts an iteration trains on: a pure function of the seed and the iteration."""

from __future__ import annotations

import torch

from ablate.key import Key


def prompt_slots(total: int, count: int, iteration: int, seed: int) -> list[int]:
    """The dataset rows of one iteration: ``count`` consecutive ones of an endless row of permutations.

    Every prompt comes up once before any comes up twice, on however many processes.
    """
    first = iteration * count
    order: dict[int, list[int]] = {}
    slots = []
    for position in range(first, first + count):
        epoch, place = divmod(position, total)
        if epoch not in order:
            generator = Key((seed, "prompts", epoch)).generator()
            order[epoch] = torch.randperm(total, generator=generator).tolist()
        slots.append(order[epoch][place])
    return slots
