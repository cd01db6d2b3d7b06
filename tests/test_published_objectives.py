"""The published losses beyond policy gradients: their vectors, and the identities that tie them to those."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import vectors
from hypothesis import assume, given
from hypothesis import strategies as st
from pieces import credit, evaluation, gradient
from test_objectives import by_ratio, exactly, feedback, off_policy, published
from torch import Tensor

from ablate.averaging import average
from ablate.estimators.awm_weights import GeneralizedHuber, Linear
from ablate.estimators.weights import Adaptive, Uniform
from ablate.objectives.awm import AWM
from ablate.objectives.crd import CRD
from ablate.objectives.dgpo import DGPO
from ablate.objectives.dppo import DPPO
from ablate.objectives.epg import EPG
from ablate.objectives.grpo import GRPO
from ablate.objectives.guard import Guard
from ablate.objectives.hinge import Hinge
from ablate.objectives.nft import NFT
from ablate.objectives.rwr import RWR
from ablate.objectives.spo import SPO
from ablate.objectives.velocity_matching import VelocityMatching
from ablate.protocols import Objective

BOUND = 5.0
seeds, numbers, distances = st.integers(0, 10**6), st.floats(-2, 2), st.floats(0, 1)


def loss_of(objective: Objective, weigh: Any, advantage: Tensor = vectors.A) -> Tensor:
    query = published(weigh)
    ev = evaluation(query, vectors.THETA, vectors.VELOCITIES, objective)
    return objective(ev, credit(advantage)).per_sample


@pytest.mark.parametrize("mix", vectors.NFT)
def test_nft_published_loss(mix: float) -> None:
    found = loss_of(NFT(mix), Adaptive()).mean()
    assert float(found) == pytest.approx(vectors.NFT[mix], abs=6e-9)


def test_awm_published_scores_ratio_and_loss() -> None:
    weights = {"ghuber": GeneralizedHuber(0.25), "t": Linear(), "huber": GeneralizedHuber(0.5, scale=0.5)}
    for name, weigh in weights.items():
        found = weigh(vectors.THETA, vectors.TARGET, vectors.T)
        assert found.tolist() == pytest.approx(vectors.AWM_SCORES[name], abs=6e-9)
    ghuber = weights["ghuber"]
    old = ghuber(vectors.OLD, vectors.TARGET, vectors.T)
    assert old.tolist() == pytest.approx(vectors.AWM_OLD, abs=6e-9)
    ratio = (ghuber(vectors.THETA, vectors.TARGET, vectors.T) - old).exp()
    assert ratio.tolist() == pytest.approx(vectors.AWM_RATIO, abs=6e-9)
    assert float(loss_of(AWM(1.0), ghuber, vectors.A / 5).mean()) == pytest.approx(vectors.AWM_LOSS, abs=6e-9)


def test_dgpo_published_loss() -> None:
    query, objective = published(Uniform()), DGPO(100.0, 1e-2)
    loss = objective(evaluation(query, vectors.THETA, vectors.VELOCITIES, objective), credit(vectors.A))
    assert float(loss.metrics["weight"]) == pytest.approx(vectors.DGPO_WEIGHT, abs=6e-9)
    assert float(loss.per_sample.mean()) == pytest.approx(vectors.DGPO_LOSS, abs=6e-12)
    assert float(loss.metrics["clip_fraction"]) == 0


def test_ram_published_loss() -> None:
    assert float(loss_of(VelocityMatching("ref", 1.0), Uniform()).mean()) == pytest.approx(
        vectors.RAM_LOSS, abs=6e-9
    )


@pytest.mark.parametrize("mix", [0.1, 1.0])
@given(seed=seeds, scale=st.floats(0.1, 9))
def test_nft_on_policy_is_the_clipped_policy_gradient(mix: float, seed: int, scale: float) -> None:
    """At v = v_old its gradient is that of -clip(A, +-5) L on the self-normalised ELBO."""
    query, v, _ = off_policy(seed, 0.0)
    fb = feedback(seed, EPG())
    fb = replace(fb, advantage=scale * fb.advantage)
    clipped = replace(fb, advantage=fb.advantage.clamp(-BOUND, BOUND))
    found = gradient(NFT(mix), query, v, {"old": v}, fb)
    torch.testing.assert_close(found, gradient(EPG(ratio=False), query, v, {}, clipped))


@given(seed=seeds, distance=distances, mix=st.floats(0.05, 2))
def test_nft_is_a_policy_gradient_and_a_trust_region(seed: int, distance: float, mix: float) -> None:
    """With one normaliser: bound a/mix - A <a, d> 2t + bound mix t^2 d^2, the square completed."""
    query, v, others = off_policy(seed, distance, Uniform())
    fb, objective = feedback(seed, EPG()), NFT(mix)
    a = query.target - others["old"]
    d = v - others["old"]
    clipped = fb.advantage.clamp(-BOUND, BOUND)
    square = BOUND * (a.square() / mix + mix * d.square())
    expected = (square - 2 * clipped[:, None] * a * d).mean(1)
    found = objective(evaluation(query, v, others, objective), fb).per_sample
    torch.testing.assert_close(found, expected)


def test_nfts_contrast_is_the_mean_distance_of_both_scores() -> None:
    query, v, others = off_policy(0, 0.5)
    objective, away = NFT(0.3), 0.3 * (v - others["old"])
    gap = query.log_prob(others["old"] + away) - query.log_prob(others["old"] - away)
    assert float(gap.min()) < 0 < float(gap.max())
    found = objective(evaluation(query, v, others, objective), feedback(0, objective)).metrics["contrast"]
    torch.testing.assert_close(found, gap.abs().mean())


@pytest.mark.parametrize("base", ["ref", "old"])
@given(seed=seeds, distance=distances, multiplier=st.floats(0.1, 100))
def test_velocity_matching_is_an_anchor_and_a_policy_gradient(
    base: str, seed: int, distance: float, multiplier: float
) -> None:
    """RAM and FlowAWR: gradient of Girsanov at 1, uniform EPG at multiplier A, and a signed old part."""
    query, v, others = off_policy(seed, distance, Uniform())
    fb = feedback(seed, EPG())
    found = gradient(VelocityMatching(base, multiplier), query, v, others, fb)

    def identity(v: Tensor) -> Tensor:
        old = (v - others["old"]).square().mean(1)
        return (v - others[base]).square().mean(1) - multiplier * fb.advantage * (query.log_prob(v) + old)

    at = v.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(identity(at).mean(), at)[0])


@given(seed=seeds, multiplier=st.floats(0.1, 100))
def test_ram_at_old_is_uniform_epg_and_girsanov(seed: int, multiplier: float) -> None:
    """At v = v_old: KL coefficient 1, advantage times the multiplier."""
    query, v, others = off_policy(seed, 0.5, Uniform())
    of = {"old": v, "ref": others["ref"]}
    fb = feedback(seed, EPG())
    found = gradient(VelocityMatching("ref", multiplier), query, v, of, fb)
    policy = gradient(EPG(ratio=False), query, v, of, replace(fb, advantage=multiplier * fb.advantage))
    torch.testing.assert_close(found, policy + 2 * (v - of["ref"]) / v.numel())


@given(seed=seeds, distance=distances)
def test_awm_sum_first_is_averaged_draws(seed: int, distance: float) -> None:
    """One ratio of the mean score over all times, where exp first has one ratio per time."""
    pair = [off_policy(seed + n, distance, GeneralizedHuber(0.25)) for n in (0, 1)]
    v, old = (torch.stack([of(p) for p in pair], 1) for of in (lambda p: p[1], lambda p: p[2]["old"]))
    query, objective, fb = average([q for q, *_ in pair], 2)[0], AWM(1.0), feedback(seed, EPG())
    mean = torch.stack([q.log_prob(v[:, s]) - q.log_prob(old[:, s]) for s, (q, *_) in enumerate(pair)]).mean(
        0
    )
    expected = torch.maximum(-fb.advantage * mean.exp(), -fb.advantage * mean.exp().clamp(0, 2))
    found = objective(evaluation(query, v, {"old": old}, objective), fb).per_sample
    torch.testing.assert_close(found, expected)


@given(seed=seeds, distance=distances)
def test_awm_is_grpo_where_both_exist(seed: int, distance: float) -> None:
    query, v, others = off_policy(seed, distance)
    fb = feedback(seed, EPG())
    awm, grpo = (gradient(o, query, v, others, fb) for o in (AWM(0.2), GRPO(0.2)))
    torch.testing.assert_close(awm, grpo)
    assert AWM(1.0, role="prox").uses == {"log_prob:prox"}


@given(log_ratio=numbers, advantage=numbers, clip=st.floats(1e-3, 0.9))
def test_hinge_stops_in_log_space(log_ratio: float, advantage: float, clip: float) -> None:
    assume(abs(clip * abs(advantage) - advantage * log_ratio) > 1e-9)
    loss, slope, metrics = by_ratio(Hinge(clip), exactly(log_ratio), exactly(advantage))
    beyond = clip * abs(advantage) < advantage * log_ratio
    assert float(loss) == pytest.approx(max(0, clip * abs(advantage) - advantage * log_ratio))
    assert float(slope) == pytest.approx(0.0 if beyond else -advantage)
    assert float(metrics["clip_fraction"]) == float(beyond)


@given(log_ratio=st.floats(-0.5, 0.5), advantage=numbers, clip=st.floats(1e-2, 0.9))
def test_spo_rests_at_the_edge_of_its_clip(log_ratio: float, advantage: float, clip: float) -> None:
    _, slope, _ = by_ratio(SPO(clip), exactly(log_ratio), exactly(advantage))
    r = math.exp(log_ratio)
    assert float(slope) == pytest.approx(-advantage * r + abs(advantage) * r * (r - 1) / clip)
    rest = math.log1p(math.copysign(clip, advantage))
    assert float(by_ratio(SPO(clip), exactly(rest), exactly(advantage))[1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NFT(0.0), "objective.mix = 0.0 must be positive"),
        (lambda: NFT(1.0, -5.0), "objective.bound = -5.0 must be positive"),
        (lambda: AWM(1.1), r"objective.clip = 1.1 must lie in \(0, 1\]"),
        (lambda: AWM(0.0), r"objective.clip = 0.0 must lie in \(0, 1\]"),
        (lambda: CRD(0.0), "objective.temperature = 0.0 must be positive"),
        (
            lambda: CRD(1.0, weight_temperature=math.nan),
            "weight_temperature = nan must be 0 or more",
        ),
        (lambda: CRD(1.0, center_scope="prompt"), "center_scope = prompt must be group or microbatch"),
        (lambda: DGPO(0.0, 0.1), "objective.sharpness = 0.0 must be positive"),
        (lambda: DGPO(1.0, 1.0), r"objective.clip = 1.0 must lie in \(0, 1\)"),
        (lambda: Guard(0.0), r"objective.clip = 0.0 must lie in \(0, 1\)"),
        (lambda: Guard(1.0), r"objective.clip = 1.0 must lie in \(0, 1\)"),
        (lambda: DPPO(0.0), "objective.gate = 0.0 must be positive"),
        (lambda: Hinge(-1.0), "objective.clip = -1.0 must be positive"),
        (lambda: SPO(0.0), "objective.clip = 0.0 must be positive"),
        (lambda: RWR(0.0), "objective.temperature = 0.0"),
        (lambda: RWR(1.0, math.nan), "max_weight = nan must be positive"),
        (lambda: VelocityMatching("ref", 0.0), "objective.multiplier = 0.0 must be positive"),
        (lambda: GeneralizedHuber(0.0), r"weighting.power = 0.0 must lie in \(0, 1\]"),
        (lambda: GeneralizedHuber(1.1), r"weighting.power = 1.1 must lie in \(0, 1\]"),
        (lambda: GeneralizedHuber(0.5, 0.0), "weighting.floor = 0.0 and scale"),
        (lambda: GeneralizedHuber(0.5, scale=0.0), "floor = 1e-10 and scale = 0.0 must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
