"""The default learner: one network, one optimiser; objective, estimator and regularizer are its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ablate.averaging import average
from ablate.contract import keys
from ablate.contract.errors import DivergedRun
from ablate.distributed import Distributed
from ablate.groups import batches, feedback_of
from ablate.key import Key
from ablate.networks import evaluate
from ablate.parts import Parts
from ablate.protocols import Policy
from ablate.settings import BatchSizes, OptimizerSettings
from ablate.types import Evaluation, Feedback, Keep, Query, Rollout


class DefaultLearner:
    """Micro-batches -> likelihood -> networks -> objective -> update (steps 5 to 9 of the loop)."""

    def __init__(
        self,
        *,
        parts: Parts,
        policy: Policy,
        distributed: Distributed,
        batch: BatchSizes,
        optimizer: OptimizerSettings,
    ) -> None:
        self._parts, self._policy, self._distributed = parts, policy, distributed
        self._batch, self._grad_clip = batch, optimizer.grad_clip
        self._uses = parts.objective.uses | parts.regularizer.uses
        self._optimizer = optimizer.build(policy.parameters())
        self._step = 0

    @property
    def keep(self) -> Keep:
        return self._parts.estimator.keep

    def update(self, rollout: Rollout, feedback: Feedback, key: Key) -> dict[str, float]:
        """One pass over the rollout, ``batch.updates`` optimiser steps; the metrics are means over it."""
        log = _Log()
        for turn in range(self._batch.updates):
            # by label, not by place: the same groups share an update on any number of processes
            share = (rollout.group % self._batch.updates == turn).nonzero().squeeze(1)
            for index in batches(share, self._batch.micro):
                self._accumulate(rollout, feedback, index, len(share), key, log)
            log.add({keys.GRAD_NORM: self._apply()})
        self._parts.snapshots.follow(self._policy, self._step, "iteration")
        means, peaks = log.read()
        return (
            self._distributed.mean(means)
            | self._distributed.largest(peaks)
            | {keys.OPTIMIZER_STEP: self._step}
        )

    def _accumulate(
        self, rollout: Rollout, feedback: Feedback, index: Tensor, share: int, key: Key, log: _Log
    ) -> None:
        draws = key.of("query").rows(rollout.sample[index])
        queries = average(self._parts.estimator.queries(rollout, index, draws), self._batch.draws)
        for query in queries:
            credit = feedback_of(feedback, rollout, index, query.k, self._parts.objective.scope)
            ev = evaluate(self._policy, query, self._uses)
            loss = self._loss(ev, credit, query, log)
            (loss.sum() / (share * len(queries))).backward()  # type: ignore[no-untyped-call]

    def _loss(self, ev: Evaluation, credit: Feedback, query: Query, log: _Log) -> Tensor:
        objective, penalty = self._parts.objective(ev, credit), self._parts.regularizer(ev, credit)
        log.add({"objective/loss": objective.per_sample.mean(), "regularizer/penalty": penalty.mean()})
        log.add({f"objective/{name}": value for name, value in objective.metrics.items()})
        if "old" in ev.log_prob_of:
            log_ratio = (ev.log_prob - ev.log_prob_of["old"]).detach()
            log.add({keys.LOG_RATIO_MEAN: log_ratio.mean(), keys.LOG_RATIO_ABS_MAX: log_ratio.abs().max()})
        return query.gain * (objective.per_sample + penalty)

    def _apply(self) -> Tensor:
        parameters = self._policy.parameters()
        self._distributed.mean_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._grad_clip)
        if not norm.isfinite():
            raise DivergedRun(
                f"the gradient norm is {float(norm)} at optimizer step {self._step}; "
                "the last checkpoint is kept: "
                "lower optimizer.lr, raise regularizer.kl_coef, or drop the ratio"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        self._parts.snapshots.follow(self._policy, self._step, "step")
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "policy": self._policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = int(state["step"])
        self._policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])


class _Log:
    """What accumulates over an iteration; tensors stay on their device until they are read."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._values[name].append(value.detach())

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Means, and the largest of what is named a maximum."""
        stacked = {name: torch.stack(values) for name, values in self._values.items()}
        peaks = {name: float(values.max()) for name, values in stacked.items() if name.endswith("max")}
        return {name: float(values.mean()) for name, values in stacked.items() if name not in peaks}, peaks
