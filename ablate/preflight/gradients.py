"""Checks of what will be learnt from: the objective's gradient, what rewards do to it, the regularizer's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ablate.networks import evaluate
from ablate.preflight.finding import Finding, absent
from ablate.preflight.trial import Trial
from ablate.protocols import HasTerms, Regularizer
from ablate.types import Evaluation, Feedback

_CONTRAST = 1e-4  # rounding gives 1e-7
Term = Callable[[Evaluation, Feedback], Tensor]  # -> loss [B]


def objective_reaches_theta(trial: Trial) -> Finding:
    """Norm of the objective's gradient in theta's weights, where rewards differ."""
    name = "objective_gradient"
    if not trial.unequal:
        return absent(name, "no group of this process has unequal rewards")
    objective = trial.parts.objective
    number = _norm(trial, objective.uses, lambda ev, fb: objective(ev, fb).per_sample)
    if number == 0:  # some losses are at rest while theta is old
        with trial.kept():
            trial.nudge()
            number = _norm(trial, objective.uses, lambda ev, fb: objective(ev, fb).per_sample)
    what = "the norm of the objective's gradient in theta"
    cure = "look for a detach or no_grad on theta's path, advantages that are 0, or weights that are frozen"
    return Finding(name, what, number, "finite and above 0", 0 < number < torch.inf, cure)


def contrast(trial: Trial) -> Finding:
    """Good and bad samples pull apart: the gradient changes when every advantage changes its sign.

    ``|g(A) - g(-A)| / (|g(A)| + |g(-A)|)`` in theta's velocity: 1 where the loss is odd in A, 0 where what is
    good is treated as what is bad, e.g. NFT with both branches equal.
    """
    name = "contrast"
    if not trial.unequal:
        return absent(name, "no group of this process has unequal rewards")
    number = _contrast(trial)
    if not number > _CONTRAST:
        with trial.kept():
            trial.nudge()
            number = _contrast(trial)
    cure = "the loss does not hear the rewards: look at its branches, what it detaches, and the advantages"
    what = "|g(A) - g(-A)| / (|g(A)| + |g(-A)|) of the objective's gradient g"
    return Finding(name, what, number, f"above {_CONTRAST}", number > _CONTRAST, cure)


def regularizer_reaches_theta(trial: Trial) -> Finding:
    """Norm of the penalty's gradient in theta's weights, term by term, with theta nudged off its anchor."""
    name = "regularizer_gradient"
    terms = _terms(trial.parts.regularizer)
    with trial.kept():
        trial.nudge()
        norms = {
            word: _norm(trial, term.uses, term) for word, term in terms.items() if not _idle(trial, term)
        }
    if not norms:
        return absent(name, "there is no regularizer")
    for word in [word for word, norm in norms.items() if norm == 0]:
        with trial.kept():  # a hinge rests on one side of its anchor
            trial.nudge(-1.0)
            norms[word] = _norm(trial, terms[word].uses, terms[word])
    worst = min(norms, key=lambda word: (0 < norms[word] < torch.inf, norms[word]))
    which = f"regularizer's term '{worst}'" if worst else "regularizer"
    what = f"with theta moved a little, the norm of the {which}'s gradient in theta"
    cure = "look for a no_grad or detach on theta's side of the penalty; a frozen number holds nothing back"
    return Finding(name, what, norms[worst], "finite and above 0", 0 < norms[worst] < torch.inf, cure)


def _terms(regularizer: Regularizer) -> Mapping[str, Regularizer]:
    return regularizer.terms if isinstance(regularizer, HasTerms) else {"": regularizer}


def _idle(trial: Trial, term: Regularizer) -> bool:
    """It reads no role and asks for nothing: there is none."""
    if term.uses:
        return False
    query, index = next(trial.queries())
    return not bool(term(evaluate(trial.policy, query, ()), trial.credit(query, index)).any())


def _slope(loss: Tensor, v: Tensor) -> Tensor:
    """d sum(loss) / d v, 0 where the loss does not depend on it."""
    if not loss.requires_grad or not v.requires_grad:
        return torch.zeros_like(v)
    (slope,) = torch.autograd.grad(loss.sum(), v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(v) if slope is None else slope


def _norm(trial: Trial, uses: frozenset[str], term: Term) -> float:
    """Norm of a term's gradient in theta, of the first query that has any."""
    for query, index in trial.queries():
        ev = evaluate(trial.policy, query, uses)
        slope = _slope(query.gain * term(ev, trial.credit(query, index)), ev.v)
        if not slope.any():
            continue
        found = torch.autograd.grad(ev.v, list(trial.policy.parameters()), slope, allow_unused=True)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))
        if norm:
            return norm
    return 0.0


def _contrast(trial: Trial) -> float:
    squares = torch.zeros(3, dtype=torch.float64)
    for query, index in trial.queries():
        ev = evaluate(trial.policy, query, trial.parts.objective.uses)
        one, two = (
            _slope(query.gain * trial.parts.objective(ev, trial.credit(query, index, sign)).per_sample, ev.v)
            for sign in (1.0, -1.0)
        )
        squares += torch.stack([x.double().square().sum().cpu() for x in (one - two, one, two)])
    apart, one_norm, two_norm = squares.sqrt().tolist()
    return float(apart / max(one_norm + two_norm, 1e-30))
