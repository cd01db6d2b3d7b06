"""The gradient a cell's learner would apply, on a batch and at weights that are the same for every cell.

A cell keeps its objective, estimator, sampler, start, advantage, regularizer, guidance, group size and draws;
policy, prompts and reward are replaced by mixture2d's network in fp64 and a generic reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from ablate import build
from ablate.contract.errors import DivergedRun
from ablate.distributed import Distributed
from ablate.equivalences.reach import DRAWER, MOST_ITERATIONS, always_together
from ablate.judge import judge
from ablate.key import Key
from ablate.parts import Parts
from ablate.protocols import Learner, Policy, Sampler
from ablate.rollout import Request, collect
from ablate.types import Cond, Keep, Prompt, Rollout

# Of a role's weights from the base, in standard deviations of each tensor: the nearest leaves some samples
# free of clips and gates of 1e-5 to 1e-2, at the furthest AWM's ratio of 2 binds.
DISTANCES: Final = (0.002, 0.05, 1.0)
_ON_POLICY: Final = 0.5  # the same where theta and its snapshots have moved together
_GROUPS: Final = 4
_ITERATIONS: Final = (
    0,
    1,
    2,
    3,
    5,
    8,
    13,
    21,
    34,
    55,
    89,
    144,
    233,
    377,
    610,
    987,
)  # at which samplers are seen
_KEY: Final = Key(("equivalences",))


@dataclass(frozen=True)
class Probe:
    """What a cell does to the common batch.

    Attributes:
        on: gradient [W] where theta has moved from the base and every snapshot is theta.
        off: gradients [W] where all roles have parted that the run ever parts, at each of DISTANCES; [0]
            where it is not finite.
        drawn: samples of the cell's sampler, and which steps it scored, over the iterations of a run [V].
        whole_groups: the objective compares the samples of a micro-batch.
    """

    on: Tensor
    off: Sequence[Tensor]
    drawn: Tensor
    whole_groups: bool


@dataclass(frozen=True)
class GenericReward:
    """A smooth function of the sample for each reward name, and in one group a single success.

    The success is an outlier that clips of standardised advantages can bind on. Values are multiples of
    2^-20, so that rounding in two equal samplers makes no difference to the credit.
    """

    weights: Mapping[str, float]
    headline: str

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return {
            name: self._scores(name, images.flatten(1), prompts) for name in {*self.weights, self.headline}
        }

    def _scores(self, name: str, x: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        waves = _KEY.of("reward", name).rows(torch.arange(x.shape[1] + 1)).normal().to(x)
        score = 0.05 + 0.05 * torch.sin(2 * x @ waves[:-1] + waves[-1])
        first = torch.tensor([prompt.text == prompts[0].text for prompt in prompts])
        score[torch.where(first, score, -1.0).argmax()] = 1.0
        return (score * 2**20).round() / 2**20


class _Listening(Distributed):
    """Keeps the gradient that the learner is about to clip and apply."""

    def __init__(self) -> None:
        super().__init__(0)
        self.heard: list[Tensor] = []

    def mean_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        zeros = (p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters)
        self.heard.append(torch.cat([gradient.flatten() for gradient in zeros]).clone())


def probe(config: Mapping[str, Any], plane: Mapping[str, Any]) -> Probe:
    """Both gradients of one cell. ``plane`` is the config of any cell on mixture2d.

    Raises:
        UserError: the cell refuses its settings, or its first update diverges.
    """
    small = _on_the_plane(config, plane)
    with _double_precision():
        parts = build.light(small)
        iterations = _iterations(config)
        names = always_together(parts.snapshots, config["batch"]["updates"], iterations)
        theta = names["theta"]
        together = {name: name if name == "ref" else theta for name in names}
        return Probe(
            on=_gradient(small, parts, _Place(together, _ON_POLICY), 0),
            off=[
                _finite_gradient(small, parts, _Place(names, far), number)
                for number, far in enumerate(DISTANCES, start=1)
            ],
            drawn=_drawn(parts.sampler, parts.estimator.keep, iterations),
            whole_groups=parts.objective.scope == "group",
        )


def _on_the_plane(config: Mapping[str, Any], plane: Mapping[str, Any]) -> dict[str, Any]:
    batch, reward = config["batch"], config["reward"]
    groups, size = min(_GROUPS, batch["prompts"]), batch["group_size"]
    sizes = {"prompts": groups, "updates": 1, "rollout": groups * size}
    whole = max(n for n in range(1, groups + 1) if groups % n == 0 and n <= max(1, batch["micro"] // size))
    return {
        **config,
        "policy": {**plane["policy"], "guidance": config["policy"].get("guidance", {})},
        "prompts": plane["prompts"],
        "reward": {
            "_target_": f"{__name__}.{GenericReward.__name__}",
            "weights": reward["weights"],
            "headline": reward["headline"],
        },
        "batch": {**batch, **sizes, "micro": whole * size},
    }


def _iterations(config: Mapping[str, Any]) -> int:
    budget, batch = config["budget"], config["batch"]
    limits = [budget.get("iterations")]
    if budget.get("samples"):
        limits.append(math.ceil(budget["samples"] / (batch["prompts"] * batch["group_size"])))
    return min((int(limit) for limit in limits if limit), default=MOST_ITERATIONS)


@contextmanager
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class _Place:
    """Where the roles are: which of them are together by ``names``, and how far they are from the base."""

    names: Mapping[str, str]
    distance: float

    def __call__(self, name: str, base: Tensor) -> Tensor:
        """The weights [..] that belong to "role/tensor"."""
        role, _, tensor = name.partition("/")
        if self.names[role] == "ref":
            return base
        draws = _KEY.of("weights", self.names[role], tensor).rows(torch.zeros(1, dtype=torch.long))
        return base + self.distance * base.std() * draws.normal(*base.shape)[0]


def _gradient(config: Mapping[str, Any], parts: Parts, place: _Place, number: int) -> Tensor:
    """The first gradient with the roles in their places, on batch ``number``."""
    ears = _Listening()
    policy = build.policy(config, parts, ears)
    learner = build.learner(config, parts, policy, ears)
    base = learner.state_dict()["policy"]
    drawer = {parts.snapshots.rollout: place.names[DRAWER]}
    _move(learner, base, replace(place, names={**place.names, **drawer}))
    rollout, prompts = _rollout(config, parts, policy, learner.keep, number)
    _move(learner, base, place)
    feedback, _ = judge(
        policy, parts.reward, parts.advantage, rollout, prompts, chunk=len(prompts), distributed=ears
    )
    exact = replace(feedback, reward=feedback.reward.double(), advantage=feedback.advantage.double())
    learner.update(rollout, exact, _KEY.of(number, "update"))
    return torch.cat(ears.heard)


def _finite_gradient(config: Mapping[str, Any], parts: Parts, place: _Place, number: int) -> Tensor:
    """As above, or empty [0] where a ratio overflows."""
    try:
        return _gradient(config, parts, place, number)
    except DivergedRun:
        return torch.empty(0)


def _move(learner: Learner, base: Mapping[str, Tensor], place: _Place) -> None:
    """To a place, at step 1: at step 0 the learner insists on being on-policy."""
    moved = {name: place(name, tensor) for name, tensor in base.items()}
    learner.load_state_dict({**learner.state_dict(), "policy": moved, "step": 1})


def _rollout(
    config: Mapping[str, Any], parts: Parts, policy: Policy, keep: Keep, number: int
) -> tuple[Rollout, list[Prompt]]:
    batch, train = config["batch"], parts.prompts.train
    group = torch.arange(batch["prompts"]).repeat_interleave(batch["group_size"])
    prompts = [train[(label + number) % len(train)] for label in group.tolist()]
    request = Request(parts.snapshots.rollout, group, torch.arange(len(group)), keep, len(group))
    texts = [prompt.text for prompt in prompts]
    key = _KEY.of(number, "rollout")
    return collect(policy, parts.sampler, parts.start, texts, request=request, key=key), prompts


def _drawn(sampler: Sampler, keep: Keep, iterations: int) -> Tensor:
    """Samples of a field without a network, for what a sampler does only later in a run."""

    def field(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return torch.tanh(x + t[:, None])

    found = []
    for iteration in (number for number in _ITERATIONS if number < iterations):
        draws, carry = _KEY.of(iteration, "sampler").rows(torch.arange(2)), None
        x = draws.of("start").normal(2)
        for k in range(sampler.num_steps):
            step = sampler.step(field, x, k, {}, carry, draws.of("step", k))
            x, carry = step.x, step.carry
            if keep != "x0":
                found.append(torch.tensor([float(step.log_prob is not None)]))
        found.append(x.flatten())
    return torch.cat(found)
