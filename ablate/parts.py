"""The parts of one run that need no weights."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.contract.errors import IncompatibleRun
from ablate.protocols import AdvantageFn, Estimator, Objective, PromptSet, Regularizer, Reward, Sampler, Start
from ablate.settings import BatchSizes
from ablate.snapshots.snapshots import Snapshots


@dataclass(frozen=True)
class Parts:
    """What a config's groups chose; building one already refuses what does not fit."""

    prompts: PromptSet
    reward: Reward
    start: Start
    sampler: Sampler
    estimator: Estimator
    objective: Objective
    regularizer: Regularizer
    advantage: AdvantageFn
    snapshots: Snapshots

    def check(self, batch: BatchSizes, evaluation_role: str) -> None:
        """Refuse what only the built parts can tell.

        Raises:
            IncompatibleRun: a role nobody keeps, a micro-batch that splits groups an objective needs whole,
                or averaged draws where an objective reads siblings at one state.
        """
        roles = {"theta", "ref", *self.snapshots.roles}
        reads = {use.partition(":")[2]: use for use in self.objective.uses | self.regularizer.uses}
        for role, use in sorted((reads | {evaluation_role: "evaluation.role"}).items()):
            if role not in roles:
                raise IncompatibleRun(
                    f"{use} is read, but snapshots keep only {sorted(roles)}; "
                    f"choose snapshots that keep '{role}'"
                )
        name = type(self.objective).__name__
        if self.objective.scope == "group" and batch.micro % batch.group_size:
            raise IncompatibleRun(
                f"batch.micro = {batch.micro} must be a multiple of batch.group_size = {batch.group_size}: "
                f"{name} compares the samples of a group in one micro-batch"
            )
        if self.objective.scope == "siblings" and batch.draws > 1:
            raise IncompatibleRun(
                f"batch.draws = {batch.draws} must be 1: {name} reads siblings at one state"
            )
