"""Run the networks a query's readers declared, and no others."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ablate.protocols import Policy
from ablate.types import Cond, Evaluation, Query, Role, Velocity


def evaluate(policy: Policy, query: Query, uses: Collection[str]) -> Evaluation:
    """Theta with gradient; of the other roles, those in ``uses`` ("v:<role>", "log_prob:<role>"), without.

    A score the query already knows costs no forward.
    """
    v = at(query, policy.velocity("theta"))
    wanted = {
        kind: {use.partition(":")[2] for use in uses if use.startswith(kind + ":")}
        for kind in ("v", "log_prob")
    }
    known = {role: query.known[role] for role in wanted["log_prob"] & set(query.known)}
    with torch.no_grad():
        run: dict[Role, Tensor] = {
            role: at(query, policy.velocity(role))
            for role in sorted(wanted["v"] | (wanted["log_prob"] - set(known)))
        }
        scored = {role: query.log_prob(run[role]) for role in wanted["log_prob"] - set(known)}
    return Evaluation(query, v, query.log_prob(v), {role: run[role] for role in wanted["v"]}, known | scored)


def at(query: Query, velocity: Velocity) -> Tensor:
    """The velocity at the query's states; averaged draws [B,draws,*D] go through the network as one batch."""
    if query.t.dim() == 1:
        return velocity(query.x_t, query.t, query.cond)
    draws = query.t.shape[1]
    cond: Cond = {name: value.repeat_interleave(draws, 0) for name, value in query.cond.items()}
    return velocity(query.x_t.flatten(0, 1), query.t.flatten(), cond).view_as(query.x_t)
