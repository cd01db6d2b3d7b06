"""Objectives: published losses and gradients, the identities between them, and what they may read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import vectors
from hypothesis import given
from hypothesis import strategies as st
from pieces import credit, draws, evaluation, gradient, point
from steps import rows, stepped
from torch import Tensor

from ablate.estimators.weights import Adaptive, Uniform
from ablate.objectives.awm import AWM
from ablate.objectives.epg import EPG
from ablate.objectives.group_direction import GroupDirection
from ablate.objectives.grpo import GRPO
from ablate.objectives.par import PAR
from ablate.objectives.pepg import PEPG
from ablate.protocols import Objective
from ablate.types import Feedback, Query, Siblings

Make = Callable[..., Any]
CLIP = 1e-3
NAMED: dict[str, Objective] = {
    "epg": EPG(),
    "epg_noratio": EPG(ratio=False),
    "pepg": PEPG(),
    "par": PAR(),
    "grpo": GRPO(CLIP),
}
ROWS = 8
VELOCITY_MATCHING = {"ram", "flow_awr"}  # their likelihood is the uniform ELBO, whatever the estimator
IMITATION = {"rwr", "sft"}  # no weight is negative: the gradient on-policy is not the policy gradient
numbers = st.floats(-2, 2)


def of_the_group(objective: Objective) -> bool:
    """Its direction is the siblings', not that of -A L."""
    return isinstance(objective, GroupDirection)


def published(weigh: Any) -> Query:
    return point(vectors.X0, vectors.EPS, vectors.T, weigh)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("weigh", [Adaptive(), Uniform()])
def test_published_losses_and_gradients(name: str, weigh: Any) -> None:
    query, fb = published(weigh), credit(vectors.A)
    adaptive = isinstance(weigh, Adaptive)
    loss = NAMED[name](evaluation(query, vectors.THETA, vectors.VELOCITIES, NAMED[name]), fb).per_sample
    assert float(loss.mean()) == pytest.approx(vectors.LOSS[name][not adaptive], abs=6e-9)
    found = gradient(NAMED[name], query, vectors.THETA, vectors.VELOCITIES, fb)
    expected = (vectors.ADAPTIVE_GRADIENT if adaptive else vectors.UNIFORM_GRADIENT)[name]
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-7)


def test_options_are_the_published_objectives(part: Make) -> None:
    """The yaml files name the parts the vectors above pin."""
    assert part("objective", "epg") == EPG() and part("objective", "pepg") == PEPG()
    assert part("objective", "par") == PAR() and isinstance(part("objective", "grpo"), GRPO)


def off_policy(seed: int, distance: float, weigh: Any = None) -> tuple[Query, Tensor, dict[str, Tensor]]:
    """A query of eight samples with D = 3, theta's velocity, and those of roles about ``distance`` away."""
    noise = draws(ROWS, seed)
    x0, eps, v = (noise.of(name).normal(3).double() for name in ("x0", "eps", "v"))
    t = 0.05 + 0.9 * noise.of("t").uniform().double()
    others = {role: v + distance * noise.of(role).normal(3).double() for role in ("old", "ref")}
    return point(x0, eps, t, weigh or Adaptive()), v, others


def scene(node: Make, name: str, seed: int, distance: float) -> tuple[Query, Tensor, dict[str, Tensor]]:
    """``off_policy``, with a scored step where the objective's yaml requires one."""
    query, v, others = off_policy(seed, distance, Uniform() if name in VELOCITY_MATCHING else None)
    if "scored_step" in node("objective", name).get("requires", ()):
        noise = draws(ROWS, seed, "step").normal(3).double()
        query = stepped(query.x_t, others["old"], noise, (0.9, -0.1, 0.4), 0.08)
    return query, v, others


def feedback(seed: int, objective: Objective) -> Feedback:
    """Two groups of four with centred credit, and siblings for who asks."""
    raw = draws(ROWS, seed, "credit").normal().double().view(2, 4)
    fb = credit((raw - raw.mean(1, keepdim=True)).flatten(), torch.arange(2).repeat_interleave(4))
    if objective.scope != "siblings":
        return fb
    x0 = draws(ROWS, seed).of("x0").normal(3).double().view(2, 4, 3)
    members = torch.stack([torch.arange(4).roll(-at) for at in range(4)] * 2)  # the row itself first
    group = fb.group[:, None]
    return replace(fb, siblings=Siblings(x0[group, members], fb.advantage.view(2, 4)[group, members]))


@pytest.mark.parametrize("ratio", [True, False])
@given(seed=st.integers(0, 10**6), distance=st.floats(0, 1))
def test_par_has_the_gradient_of_pepg(ratio: bool, seed: int, distance: float) -> None:
    query, v, others = off_policy(seed, distance)
    fb = feedback(seed, PAR())
    torch.testing.assert_close(
        gradient(PAR(ratio=ratio), query, v, others, fb), gradient(PEPG(ratio=ratio), query, v, others, fb)
    )


@given(seed=st.integers(0, 10**6), distance=st.floats(0, 0.1))
def test_grpo_without_an_active_clip_has_the_gradient_of_epg(seed: int, distance: float) -> None:
    query, v, others = off_policy(seed, distance)
    fb = feedback(seed, EPG())
    torch.testing.assert_close(
        gradient(GRPO(0.999), query, v, others, fb), gradient(EPG(), query, v, others, fb)
    )


def test_on_policy_gradients_agree(part: Make, node: Make, each_objective: str) -> None:
    """At v = v_old = v_ref every policy gradient is -A grad L, up to one factor: a sign error cannot hide."""
    objective = part("objective", each_objective)
    if each_objective in IMITATION or of_the_group(objective):
        return
    for seed in range(5):
        query, v, _ = scene(node, each_objective, seed, 0.0)
        fb = feedback(seed, objective)
        found = gradient(objective, query, v, {"old": v, "ref": v}, fb)
        expected = gradient(EPG(ratio=False), query, v, {}, fb)
        assert float(torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), 0)) > 0.99


def test_an_objective_reads_what_it_declares(part: Make, node: Make, each_objective: str) -> None:
    """It works with those roles alone, and needs every one of them; its numbers are finite."""
    objective = part("objective", each_objective)
    query, v, others = scene(node, each_objective, 0, 0.3)
    ev, fb = evaluation(query, v, others, objective), feedback(0, objective)
    loss = objective(ev, fb)
    assert loss.per_sample.shape == (ROWS,) and loss.per_sample.isfinite().all()
    assert all(value.dim() == 0 and value.isfinite() for value in loss.metrics.values())
    for use in objective.uses:
        kind, _, role = use.partition(":")
        field = {"v": "v_of", "log_prob": "log_prob_of"}[kind]
        poorer = replace(ev, **{field: {r: x for r, x in vars(ev)[field].items() if r != role}})
        with pytest.raises(KeyError, match=role):
            objective(poorer, fb)


def test_an_objective_is_a_value(part: Make, node: Make, each_objective: str) -> None:
    """Frozen, equal to its twin, and of the same answer twice."""
    objective, twin = part("objective", each_objective), part("objective", each_objective)
    assert objective == twin
    with pytest.raises(AttributeError):
        objective.anything = 1
    query, v, others = scene(node, each_objective, 0, 0.3)
    fb = feedback(0, objective)
    one, two = (o(evaluation(query, v, others, o), fb).per_sample for o in (objective, twin))
    assert torch.equal(one, two)


def test_a_row_does_not_see_the_others(part: Make, node: Make, each_objective: str) -> None:
    """With scope "sample" the loss of a row is the same alone."""
    objective = part("objective", each_objective)
    if objective.scope != "sample":
        return
    query, v, others = scene(node, each_objective, 3, 0.3)
    fb = feedback(3, objective)
    whole = objective(evaluation(query, v, others, objective), fb).per_sample
    for at in range(ROWS):
        one = slice(at, at + 1)
        ev = evaluation(rows(query, one), v[one], {r: x[one] for r, x in others.items()}, objective)
        part_of = Feedback(fb.reward[one], fb.advantage[one], fb.group[one])
        torch.testing.assert_close(objective(ev, part_of).per_sample, whole[one])


def test_metrics_have_no_gradient_and_are_of_the_micro_batch(
    part: Make, node: Make, each_objective: str
) -> None:
    """That of two groups is the mean of each alone, or the largest."""
    objective = part("objective", each_objective)
    query, v, others = scene(node, each_objective, 3, 0.3)
    fb = feedback(3, objective)

    def metrics(one: slice) -> dict[str, Tensor]:
        at, of = v[one].clone().requires_grad_(), {r: x[one] for r, x in others.items()}
        credit = Feedback(fb.reward[one], fb.advantage[one], fb.group[one])
        if fb.siblings is not None:
            credit = replace(credit, siblings=Siblings(fb.siblings.x0[one], fb.siblings.advantage[one]))
        return dict(objective(evaluation(rows(query, one), at, of, objective), credit).metrics)

    whole, *halves = (metrics(slice(*ends)) for ends in ((0, ROWS), (0, 4), (4, ROWS)))
    for name, value in whole.items():
        assert not value.requires_grad
        each = torch.stack([half[name].double() for half in halves])
        expected = each.max() if name.endswith("max") else each.mean()
        torch.testing.assert_close(value.double(), expected)


def test_dropping_the_ratio_drops_the_forward() -> None:
    assert EPG().uses == {"log_prob:old"} and EPG(ratio=False).uses == frozenset()


def exactly(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def by_ratio(objective: Objective, log_ratio: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Loss, its slope in log r, and metrics, for given log-ratios."""
    score = log_ratio.clone().requires_grad_()
    query = replace(published(Uniform()), log_prob=lambda v: score)
    ev = evaluation(query, vectors.THETA, {}, EPG(ratio=False))
    ev = replace(ev, log_prob_of={"old": torch.zeros_like(score)})
    loss = objective(ev, credit(advantage))
    slope = torch.autograd.grad(loss.per_sample.sum(), score)[0]
    return loss.per_sample.detach(), slope, loss.metrics


@pytest.mark.parametrize("make", [GRPO, AWM])
@given(log_ratio=numbers, advantage=numbers, clip=st.floats(1e-4, 0.9))
def test_a_clipped_ratio_takes_the_worse_branch(
    make: Callable[[float], Objective], log_ratio: float, advantage: float, clip: float
) -> None:
    """The worse of both branches; no gradient where the ratio has left the interval the way A pushes it."""
    r = exactly(log_ratio)
    a = exactly(advantage)
    loss, slope, metrics = by_ratio(make(clip), r, a)
    ratio = float(r.exp())
    bounded = min(max(ratio, 1 - clip), 1 + clip)
    assert float(loss) == pytest.approx(max(-advantage * ratio, -advantage * bounded))
    left = (advantage > 0 and ratio > 1 + clip) or (advantage < 0 and ratio < 1 - clip)
    assert float(slope) == pytest.approx(0.0 if left else -advantage * ratio)
    assert float(metrics["clip_fraction"]) == float(left)


@pytest.mark.parametrize("make", [GRPO, AWM])
def test_clip_fraction_is_a_share_of_the_rows(make: Callable[[float], Objective]) -> None:
    log_ratio, advantage = (torch.tensor(x).double() for x in ([0.5, -0.5, 0.0, 0.5], [1.0, 1.0, 1.0, -1.0]))
    assert float(by_ratio(make(0.1), log_ratio, advantage)[2]["clip_fraction"]) == 0.25


@given(advantage=numbers)
def test_losses_at_ratio_one(advantage: float) -> None:
    """-A for GRPO, A^2/2 for PAR; and the slope is -A for all."""
    a, one = exactly(advantage), torch.zeros(1).double()
    losses = {name: by_ratio(objective, one, a) for name, objective in NAMED.items()}
    assert float(losses["grpo"][0]) == pytest.approx(-advantage)
    assert float(losses["par"][0]) == pytest.approx(advantage**2 / 2)
    assert all(float(slope) == pytest.approx(-advantage) for _, slope, _ in losses.values())


@given(log_ratio=numbers, advantage=numbers)
def test_the_slopes_off_policy(log_ratio: float, advantage: float) -> None:
    """-r A for EPG, -r (A - log r) for PEPG and PAR: the latter rest where log r = A."""
    a, r = exactly(advantage), exactly(log_ratio)
    ratio = float(r.exp())
    assert float(by_ratio(EPG(), r, a)[1]) == pytest.approx(-ratio * advantage)
    for objective in (PEPG(), PAR()):
        assert float(by_ratio(objective, r, a)[1]) == pytest.approx(-ratio * (advantage - log_ratio))
        assert float(by_ratio(objective, a, a)[1]) == pytest.approx(0)


@pytest.mark.parametrize("clip", [0.0, 1.0, -0.1, float("nan")])
def test_a_clip_outside_its_range_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=r"objective.clip = .* must lie in \(0, 1\)"):
        GRPO(clip)
