"""From a resolved config to objects. The only caller of hydra's instantiate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import hydra
from hydra.errors import InstantiationException

from ablate.contract.compat import TAGS
from ablate.contract.errors import UserError
from ablate.contract.rundir import SWEEP_HOURS
from ablate.distributed import Distributed
from ablate.parts import Parts
from ablate.preflight.preflight import Preflight
from ablate.protocols import Learner, Policy, Sampler
from ablate.settings import BatchSizes, Budget, EvaluationSettings, OptimizerSettings

Config = Mapping[str, Any]
S = TypeVar("S")


def make(node: Config, **runtime: Any) -> Any:
    """Build one part from its node; ``runtime`` holds what only exists now.

    Hydra 1.3 would turn a dataclass passed to ``instantiate`` into a config, hence partial first and call
    after.

    Raises:
        UserError: the part refuses its settings, or does not exist.
    """
    try:
        return hydra.utils.instantiate(_untagged(node), _convert_="all", _partial_=True)(**runtime)
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{node['_target_']}: {str(cause).splitlines()[0]}") from error
    except TypeError as error:
        raise UserError(f"{node['_target_']}: {error}; see the fields in its yaml under conf/") from error
    except ValueError as error:  # a part's own refusal, in its own words
        raise error if isinstance(error, UserError) else UserError(str(error)) from error


def _untagged(node: Any) -> Any:
    """The node without the tags of any part in it, at whatever depth."""
    if isinstance(node, Mapping):
        tags = TAGS if "_target_" in node else ()
        return {key: _untagged(value) for key, value in node.items() if key not in tags}
    return [_untagged(value) for value in node] if isinstance(node, list) else node


def light(config: Config) -> Parts:
    """Everything but networks, in well under a second; refuses what the built parts know not to fit."""
    sampler: Sampler = make(config["sampler"])
    parts = Parts(
        prompts=make(config["prompts"]),
        reward=make(config["reward"]),
        start=make(config["start"]),
        sampler=sampler,
        estimator=make(config["estimator"], sampler=sampler),
        objective=make(config["objective"]),
        regularizer=make(config["regularizer"]),
        advantage=make(config["advantage"]),
        snapshots=make(config["snapshots"]),
    )
    parts.check(batch_sizes(config), config["evaluation"]["role"])
    return parts


def settings(kind: type[S], node: Config) -> S:
    """Typed settings from a config node.

    Raises:
        UserError: a field is missing or unknown, or its value is out of range.
    """
    try:
        return kind(**node)
    except TypeError as error:
        raise UserError(f"{kind.__name__}: {error}; see conf/scale/ for the fields") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def batch_sizes(config: Config) -> BatchSizes:
    return settings(BatchSizes, config["batch"])


def budget(config: Config) -> Budget:
    return settings(Budget, {key: value for key, value in config["budget"].items() if key != SWEEP_HOURS})


def evaluation(config: Config) -> tuple[EvaluationSettings, Sampler]:
    node = dict(config["evaluation"])
    sampler: Sampler = make(node.pop("sampler"))
    return settings(EvaluationSettings, node), sampler


def policy(config: Config, parts: Parts, distributed: Distributed) -> Policy:
    """The policy with its weights loaded, on this process's device."""
    built = make(config["policy"], snapshots=list(parts.snapshots.roles), device=distributed.device)
    return cast(Policy, built)


def learner(config: Config, parts: Parts, network: Policy, distributed: Distributed) -> Learner:
    built = make(
        config["learner"],
        parts=parts,
        policy=network,
        distributed=distributed,
        batch=batch_sizes(config),
        optimizer=settings(OptimizerSettings, config["optimizer"]),
    )
    return cast(Learner, built)


def preflight(config: Config) -> Preflight:
    return cast(Preflight, make(config["preflight"]))
