"""Checks between roles before any update: one guidance where likelihoods meet, and ratios of 1."""

from __future__ import annotations

import torch

from ablate.networks import evaluate
from ablate.preflight.finding import Finding, absent
from ablate.preflight.trial import Trial, roles_read
from ablate.types import Role

_ON_POLICY = 1e-3  # nats per dimension; fp32 keeps 1e-6


def guidance_agrees(trial: Trial) -> Finding:
    """Roles whose likelihood is compared with theta's have theta's guidance.

    Velocities read as such may differ: a guided anchor is a teacher (CRD, arXiv:2603.14128). So is a guided
    base that unguided theta is measured from (DGPO without CFG, arXiv:2510.08425).
    """
    policy, name = trial.policy, "guidance"
    roles = roles_read(trial.parts.objective.uses | trial.parts.regularizer.uses, "log_prob")
    if any(trial.rollout.drawn_by in query.known for query, _ in trial.queries()):
        roles |= {trial.rollout.drawn_by}
    if policy.guidance("theta") == 1:
        roles -= {"ref"}
    if not roles - {"theta"}:
        return absent(name, "theta's likelihood is compared with no other")
    apart = {role: abs(policy.guidance(role) - policy.guidance("theta")) for role in sorted(roles)}
    worst = max(apart, key=lambda role: apart[role])
    what = (
        f"theta's guidance is {policy.guidance('theta')}, that of '{worst}' {policy.guidance(worst)}: the gap"
    )
    cure = f"likelihoods of two fields are no ratio: give theta and '{worst}' one policy.guidance"
    return Finding(name, what, apart[worst], "0", apart[worst] == 0, cure)


def on_policy(trial: Trial) -> Finding:
    """Before any update every snapshot is theta, and what drew is what is trained: |log ratio| is rounding.

    Also where the objective reads velocities alone. A drawing role that nobody reads may have a guidance of
    its own (RAM, DGPO); one that scored its steps as it drew them may not.
    """
    name, drawn_by = "on_policy", trial.rollout.drawn_by
    reads = trial.parts.objective.uses | trial.parts.regularizer.uses
    compared = roles_read(reads, "log_prob") - {"ref"}
    same_field = trial.policy.guidance(drawn_by) == trial.policy.guidance("theta")
    if same_field or drawn_by in roles_read(trial.parts.objective.uses, "v"):
        compared |= {drawn_by}
    apart: dict[Role, list[float]] = {}
    with torch.no_grad():
        for query, _ in trial.queries():
            roles = compared | ({drawn_by} & set(query.known))
            ev = evaluate(trial.policy, query, {f"log_prob:{role}" for role in roles})
            for role, score in ev.log_prob_of.items():
                apart.setdefault(role, []).append(float((ev.log_prob - score).abs().max()))
    if not apart:
        return absent(name, f"'{drawn_by}' draws with a guidance of its own, and nobody reads it")
    largest = {role: float(torch.tensor(values).max()) for role, values in sorted(apart.items())}  # keeps NaN
    worst = max(largest, key=lambda role: (not largest[role] <= _ON_POLICY, largest[role]))
    cure = "rollout and update disagree: give both one kernel, noise level, guidance, dtype and schedule"
    ok = largest[worst] <= _ON_POLICY
    what = f"|log ratio| of theta to '{worst}' before any update"
    return Finding(name, what, largest[worst], f"at most {_ON_POLICY}", ok, cure)
