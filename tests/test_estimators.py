"""Likelihood estimators: published scores, times and noise by name, and the regression each of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import vectors
from hypothesis import given
from hypothesis import strategies as st
from pieces import draws, only, point, sample
from torch import Tensor

from ablate.contract.errors import UserError
from ablate.estimators.awm_weights import GeneralizedHuber, Linear
from ablate.estimators.elbo import ELBO
from ablate.estimators.finite_difference import FiniteDifference
from ablate.estimators.times import All, OneTime, Permuted, Stratified, TimeSelection
from ablate.estimators.weights import Adaptive, AdaptiveVelocity, Likelihood, TSquared, Uniform
from ablate.networks import evaluate
from ablate.protocols import Policy
from ablate.samplers.grids import Double
from ablate.types import Query, Rollout

ROWS = 12
GRID = Double(3.0)(10)
WEIGHTINGS = {"adaptive": "elbo", "t": "elbo_t", "uniform": "elbo_uniform", "likelihood": "elbo_likelihood"}


@pytest.fixture(scope="module")
def rollout_of(part: Callable[..., Any], policy: Policy) -> Callable[..., Rollout]:
    """A rollout of three groups of four, in fp64 so that closed forms are exact."""

    def draw(sampler: Any, keep: Any) -> Rollout:
        drawn = sample(policy, sampler, part("start", "iid"), keep=keep, groups=3, size=4)
        path = drawn.path
        if path is not None and path.log_prob is not None:
            path = replace(
                path, x=path.x.double(), x_next=path.x_next.double(), log_prob=path.log_prob.double()
            )
        return replace(drawn, x0=drawn.x0.double(), path=path)

    return draw


@pytest.fixture
def queries_of(
    part: Callable[..., Any], rollout_of: Callable[..., Rollout]
) -> Callable[..., Sequence[Query]]:
    """``queries_of(estimator, sampler)`` of all samples."""

    def ask(option: str, sampler_option: str = "ode", **fields: Any) -> Sequence[Query]:
        sampler = part("sampler", sampler_option)
        estimator = part("estimator", option, sampler=sampler, **fields)
        return estimator.queries(rollout_of(sampler, estimator.keep), torch.arange(ROWS), draws(ROWS))

    return ask


def fits(node: Callable[..., Any], estimator: str, sampler: str) -> bool:
    required = node("estimator", estimator).get("requires", ())
    return set(required) <= set(node("sampler", sampler).get("provides", ()))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_published_scores(part: Callable[..., Any], weighting: str) -> None:
    weigh = part("estimator", WEIGHTINGS[weighting], sampler=part("sampler", "ode")).weighting
    query = point(vectors.X0, vectors.EPS, vectors.T, weigh)
    found = torch.stack([query.log_prob(v) for v in vectors.VELOCITIES.values()])
    torch.testing.assert_close(found, vectors.ELBO[weighting], rtol=0, atol=6e-9)


def test_weightings_in_clean_space() -> None:
    """t^2 is the error of x0_hat; adaptive divides it by x0_hat's mean absolute error, held constant."""
    query = point(vectors.X0, vectors.EPS, vectors.T, TSquared())
    v = vectors.THETA.clone().requires_grad_()
    x0_hat = query.x_t - vectors.T[:, None] * v
    error = (x0_hat - vectors.X0).square().mean(1)
    torch.testing.assert_close(query.log_prob(v), -error)
    size = (x0_hat - vectors.X0).abs().mean(1).detach()
    adaptive = Adaptive()(v, query.target, vectors.T)
    torch.testing.assert_close(adaptive, -error / size)
    for found, expected in ((adaptive, -error / size), (query.log_prob(v), -error)):
        ours, theirs = (torch.autograd.grad(f.sum(), v, retain_graph=True)[0] for f in (found, expected))
        torch.testing.assert_close(ours, theirs)


PERFECT = (
    Adaptive(),
    AdaptiveVelocity(),
    Uniform(),
    TSquared(),
    Likelihood(),
    Linear(),
    GeneralizedHuber(0.25),
)


@pytest.mark.parametrize("weigh", PERFECT)
def test_a_perfect_velocity_has_no_gradient(weigh: Any) -> None:
    """Also where the adaptive normaliser would be 0, and at both ends of time."""
    v = vectors.TARGET.clone().requires_grad_()
    for t in (torch.zeros(2).double(), vectors.T, torch.ones(2).double()):
        score = weigh(v, vectors.TARGET, t)
        assert torch.equal(score, torch.zeros(2).double())
        assert torch.equal(torch.autograd.grad(score.sum(), v)[0], torch.zeros(2, 4).double())


def test_a_score_does_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"velocity \(2, 1\) and target \(2, 4\) must have one shape"):
        Uniform()(torch.zeros(2, 1), torch.zeros(2, 4), torch.ones(2))


@pytest.mark.parametrize(
    ("make", "field"), [(Adaptive, "floor"), (AdaptiveVelocity, "floor"), (Likelihood, "floor")]
)
def test_a_floor_of_zero_is_refused(make: Callable[..., Any], field: str) -> None:
    with pytest.raises(ValueError, match=r"weighting.floor = 0.0 must be positive"):
        make(**{field: 0.0})


def test_every_estimator_is_a_regression(
    queries_of: Callable[..., Sequence[Query]],
    node: Callable[..., Any],
    each_estimator: str,
    each_sampler: str,
) -> None:
    """d log_prob/dv is the way from v to the target times one positive weight per sample, where the tags fit.

    Where they do not, the types refuse the pair as well.
    """
    if not fits(node, each_estimator, each_sampler):
        with pytest.raises(UserError):
            queries_of(each_estimator, each_sampler)
        return
    queries = queries_of(each_estimator, each_sampler)
    assert queries
    for query in queries:
        v = draws(ROWS, "v").normal(2).double().requires_grad_()
        score = query.log_prob(v)
        assert score.shape == (ROWS,) and query.t.shape == (ROWS,) and query.k.shape == (ROWS,)
        slope = torch.autograd.grad(score.sum(), v)[0]
        wanted = (query.target - v).detach()
        weight = (slope * wanted).sum(1, keepdim=True) / wanted.square().sum(1, keepdim=True)
        torch.testing.assert_close(slope, weight * wanted, rtol=1e-7, atol=1e-12)
        silent = weight[:, 0] == 0
        assert (weight >= 0).all() and (query.t[silent] == 1).all()  # (1 - t)/t knows nothing of pure noise
        assert (query.log_prob(query.target) > score)[~silent].all()


def test_elbo_points_lie_between_sample_and_noise(
    queries_of: Callable[..., Sequence[Query]], rollout_of: Callable[..., Rollout], part: Callable[..., Any]
) -> None:
    """``x_t - t target = x0`` and ``x_t + (1 - t) target`` is fresh standard noise."""
    x0 = rollout_of(part("sampler", "ode"), "x0").x0
    noises = []
    for query in queries_of("elbo_all"):
        t = query.t[:, None].double()
        torch.testing.assert_close(query.x_t - t * query.target, x0, rtol=0, atol=1e-6)
        noises.append(query.x_t + (1 - t) * query.target)
    assert [float(q.t[0]) for q in queries_of("elbo_all")] == pytest.approx(GRID[:-1].tolist(), abs=1e-7)
    noise = torch.stack(noises)
    assert len(noise.flatten().unique()) == noise.numel()  # nothing shared: 10 times x 12 samples x 2
    assert abs(float(noise.mean())) < 4 / noise.numel() ** 0.5
    assert abs(float(noise.std()) - 1) < 4 / (2 * noise.numel()) ** 0.5


def test_trajectory_asks_for_the_stored_steps(queries_of: Callable[..., Sequence[Query]]) -> None:
    queries = queries_of("trajectory", "sde")
    assert [q.k.unique().item() for q in queries] == list(range(9))
    torch.testing.assert_close(torch.stack([q.t[0] for q in queries]), GRID[:9].float())
    assert all(set(q.known) == {"old"} for q in queries)
    part_of = queries_of("trajectory", "sde", fraction=0.6)
    ks = torch.stack([q.k for q in part_of], 1)
    assert len(part_of) == 5 and len({tuple(row) for row in ks.tolist()}) > 1  # per sample, not per batch
    assert all(len(set(row)) == 5 for row in ks.tolist())  # no step twice


selections = pytest.mark.parametrize(
    "select", [All(), Permuted(0.99), Permuted(0.5), Stratified(4, 0.05, 1.0), OneTime(0.8)]
)


@selections
def test_a_row_has_the_times_of_its_name(select: TimeSelection) -> None:
    t, k = select(GRID, draws(50))
    assert t.shape == k.shape and t.shape[0] == 50 and ((t > 0) & (t <= 1)).all()
    subset = draws(50).rows(torch.tensor([7, 3, 41]))
    assert torch.equal(select(GRID, subset)[0], t[[7, 3, 41]])


def test_permuted_takes_distinct_times_of_the_grid() -> None:
    t, k = Permuted(0.99)(GRID, draws(400))
    assert k.shape == (400, 9) and all(len(set(row)) == 9 for row in k.tolist())
    assert torch.equal(t, GRID[k].float())
    left_out = torch.tensor([(set(range(10)) - set(row)).pop() for row in k.tolist()])
    assert len(left_out.unique()) == 10  # each of the ten is left out by some sample
    assert Permuted(1.0)(GRID, draws(2))[1].shape == (2, 10)


def test_few_times() -> None:
    """A tenth of ten times is one, and one time is the same for all rows."""
    t, k = Permuted(0.1)(GRID, draws(40))
    assert t.shape == (40, 1) and torch.equal(t, GRID[k].float()) and len(k.unique()) > 1
    t, k = OneTime(0.8)(GRID, draws(40))
    assert torch.equal(t, torch.full((40, 1), 0.8)) and torch.equal(k, torch.zeros(40, 1).long())


@given(count=st.integers(1, 8), low=st.floats(0, 0.5), high=st.floats(0.6, 1))
def test_stratified_draws_once_per_part(count: int, low: float, high: float) -> None:
    t, k = Stratified(count, low, high)(GRID, draws(20))
    edges = low + (high - low) * torch.arange(count + 1) / count
    assert (t >= edges[:-1] - 1e-6).all() and (t <= edges[1:] + 1e-6).all()
    assert not k.any()
    assert len(t.unique()) == t.numel()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Permuted(0.0), "times.fraction = 0.0 must lie in"),
        (lambda: Permuted(1.1), "times.fraction = 1.1 must lie in"),
        (lambda: Permuted(0.05)(GRID, draws(1)), "of 10 steps leaves none"),
        (lambda: Stratified(0), "times.count = 0 must be at least 1"),
        (lambda: Stratified(3, 0.5, 0.5), "must satisfy 0 <= low < high <= 1"),
        (lambda: Stratified(3, 0.5, 1.1), "must satisfy 0 <= low < high <= 1"),
        (lambda: Stratified(3, -0.1, 0.5), "must satisfy 0 <= low < high <= 1"),
        (lambda: OneTime(0.0), "times.t = 0.0 must lie in"),
        (lambda: OneTime(1.2), "times.t = 1.2 must lie in"),
    ],
)
def test_impossible_times_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _tied(values: Tensor, group: Tensor) -> tuple[bool, bool]:
    """Are rows [B,..] equal within every group, and different between any two groups?"""
    firsts = torch.stack([values[group == g][0] for g in group.unique()]).flatten(1)
    within = all((values[group == g] == values[group == g][:1]).all() for g in group.unique())
    between = all((a != b).any() for i, a in enumerate(firsts) for b in firsts[:i])
    return within, between


TIED = {"sample": (False, True), "group": (True, True), "iteration": (True, False)}


@pytest.mark.parametrize("tie_times", TIED)
@pytest.mark.parametrize("tie_noise", TIED)
def test_ties_are_by_sample_group_or_iteration(
    part: Callable[..., Any], rollout_of: Callable[..., Rollout], tie_times: Any, tie_noise: Any
) -> None:
    sampler = part("sampler", "ode")
    rollout = rollout_of(sampler, "x0")
    estimator = ELBO(sampler, Stratified(3), Uniform(), tie_times=tie_times, tie_noise=tie_noise)
    queries = estimator.queries(rollout, torch.arange(ROWS), draws(ROWS))
    t = torch.stack([q.t for q in queries], 1)
    eps = torch.stack([q.target + rollout.x0 for q in queries], 1).float()
    assert _tied(t, rollout.group) == TIED[tie_times]
    assert _tied((eps * 1e4).round(), rollout.group) == TIED[tie_noise]
    assert all((a != b).any() for a, b in zip(eps.unbind(1), eps.roll(1, 1).unbind(1), strict=True))


def test_a_query_can_be_had_again(
    part: Callable[..., Any],
    rollout_of: Callable[..., Rollout],
    node: Callable[..., Any],
    each_estimator: str,
    each_sampler: str,
) -> None:
    """The same address gives the same bits; micro-batches of any size and order change none of them."""
    if not fits(node, each_estimator, each_sampler):
        return
    sampler = part("sampler", each_sampler)
    estimator = part("estimator", each_estimator, sampler=sampler)
    rollout = rollout_of(sampler, estimator.keep)
    whole = estimator.queries(rollout, torch.arange(ROWS), draws(ROWS))
    for index in (torch.arange(ROWS), torch.tensor([5]), torch.tensor([11, 0, 4, 7])):
        again = estimator.queries(rollout, index, draws(ROWS).rows(rollout.sample[index]))
        bare = again
        if not isinstance(estimator, FiniteDifference):  # which reads a row's siblings
            bare = estimator.queries(only(rollout, index), torch.arange(len(index)), draws(ROWS).rows(index))
        for one, two, three in zip(whole, again, bare, strict=True):
            for name in ("x_t", "t", "k", "target"):
                assert torch.equal(vars(one)[name][index], vars(two)[name])
                assert torch.equal(vars(two)[name], vars(three)[name])
    other = estimator.queries(rollout, torch.arange(ROWS), draws(ROWS, "next iteration"))
    random = not torch.equal(other[0].target, whole[0].target)
    assert random == (estimator.keep == "x0")  # a path is what it is, fresh noise is fresh


def test_all_networks_answer_the_same_query(
    queries_of: Callable[..., Sequence[Query]], policy: Policy
) -> None:
    """Roles are copies at first: any difference would be another time, noise or sample. Each costs B."""
    query = queries_of("elbo", "ode")[0]
    query = replace(query, x_t=query.x_t.float(), target=query.target.float())
    query = replace(query, log_prob=lambda v: -(v - query.target).square().mean(1))
    before = policy.forwards
    ev = evaluate(policy, query, {"v:old", "v:ref", "log_prob:old"})
    assert policy.forwards - before == 3 * ROWS  # theta, old, ref: one evaluation of old serves both uses
    assert set(ev.v_of) == {"old", "ref"} and set(ev.log_prob_of) == {"old"}
    for v in ev.v_of.values():
        assert torch.equal(v, ev.v) and not v.requires_grad
    assert torch.equal(ev.log_prob_of["old"], ev.log_prob) and ev.log_prob.requires_grad


def test_a_known_score_costs_no_forward(queries_of: Callable[..., Sequence[Query]], policy: Policy) -> None:
    query = replace(queries_of("elbo")[0], x_t=torch.zeros(ROWS, 2), known={"old": torch.full((ROWS,), -7.0)})
    before = policy.forwards
    ev = evaluate(policy, query, {"log_prob:old"})
    assert policy.forwards - before == ROWS
    assert torch.equal(ev.log_prob_of["old"], torch.full((ROWS,), -7.0)) and not ev.v_of
