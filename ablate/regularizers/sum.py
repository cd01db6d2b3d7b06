"""Several regularizers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ablate.protocols import Regularizer
from ablate.types import Evaluation, Feedback


@dataclass(frozen=True)
class Sum:
    """The sum of its terms.

    Attributes:
        terms: regularizers by name, for overrides such as ``regularizer.terms.base.kl_coef=0.1``.

    Raises:
        ValueError: no terms.
    """

    terms: Mapping[str, Regularizer]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("regularizer.terms is empty; name at least one, or choose regularizer=none")

    @property
    def uses(self) -> frozenset[str]:
        return frozenset().union(*(term.uses for term in self.terms.values()))

    def __call__(self, ev: Evaluation, fb: Feedback) -> Tensor:
        first, *rest = (term(ev, fb) for term in self.terms.values())
        return sum(rest, first)
