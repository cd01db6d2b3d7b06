"""Which parts fit together, told from the composed config alone. No torch and no list of parts here.

A part's yaml says what it ``requires`` of the others and what it ``provides`` to them. A run fits when every
requirement is provided by some chosen part, and when its sizes divide. What it ``promises`` of itself, the
preflight checks. If this machine has the ``files`` and ``checkpoints`` it names, ``contract.files`` tells
before a run starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ablate.contract.rundir import PROMISES, SWEEP_HOURS

TAGS = (
    "requires",
    "provides",
    PROMISES,
    "files",
    "checkpoints",
)  # in a part's yaml, but no fields of the part
COUNTS = (
    "batch.prompts",
    "batch.group_size",
    "batch.micro",
    "batch.updates",
    "batch.rollout",
    "batch.draws",
    "resources.processes",
    "resources.threads",
    "evaluation.samples_per_prompt",
    "evaluation.batch",
    "checkpoint.every_iterations",
)
OPTIONAL_COUNTS = (
    "resources.slots",
    "evaluation.every_iterations",
)


def problems(config: Mapping[str, Any], choices: Mapping[str, str], conf: Path) -> list[str]:
    """Why this run cannot exist: one line per reason, each with value, rule and cure. Empty if it can.

    Args:
        config: the resolved config.
        choices: the option chosen in each config group, e.g. {"sampler": "ode"}.
        conf: the folder of config groups; the cure names the options there that provide what is missing.
    """
    counts = [*_count_problems(config)]
    sizes = [] if counts else [*_size_problems(config), *_device_problems(config["resources"])]
    return [*_tag_problems(config, choices, conf), *counts, *sizes, *_budget_problems(config["budget"])]


def parts(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The nodes of a config that become parts, by group."""
    return {group: node for group, node in config.items() if isinstance(node, Mapping) and "_target_" in node}


def promises(config: Mapping[str, Any]) -> frozenset[str]:
    """What the run's parts promise; not what a part within them does: a reshaped z-score is not centred."""
    return frozenset(tag for node in parts(config).values() for tag in node.get(PROMISES, ()))


def _required(node: object) -> Iterator[str]:
    """What a part requires, and the parts within it."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from node.get("requires", ())
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _required(inner)


def _tag_problems(config: Mapping[str, Any], choices: Mapping[str, str], conf: Path) -> Iterator[str]:
    chosen_parts = parts(config)
    given = {tag for node in chosen_parts.values() for tag in node.get("provides", ())}
    for group, node in chosen_parts.items():
        for tag in dict.fromkeys(_required(node)):
            if tag in given:
                continue
            cures = providers(conf, tag)
            candidates = sorted({cure.split("=")[0] for cure in cures})
            chosen = ", ".join(f"{name}={choices.get(name, '?')}" for name in candidates) or "nothing chosen"
            cure = " or ".join(cures) or f"another {group}"
            name = choices.get(group, node["_target_"])
            yield f"{group}={name} requires '{tag}', which {chosen} does not provide; choose {cure}"


@cache
def providers(conf: Path, tag: str) -> list[str]:
    """The options that provide a tag, as overrides: ["sampler=sde", ...]."""
    found = []
    for path in sorted(conf.glob("*/*.yaml")):
        node = yaml.safe_load(path.read_text()) or {}
        if tag in node.get("provides", ()):
            found.append(f"{path.parent.name}={path.stem}")
    return found


def _count_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name in (*COUNTS, *OPTIONAL_COUNTS):
        section, key = name.split(".")
        value = config[section].get(key)
        if value is None and name in OPTIONAL_COUNTS:
            continue
        if type(value) is not int or value < 1:
            yield f"{name} = {json.dumps(value)} must be a whole number, 1 or more"


def _divides(whole: int, name: str, part: int, by: str, cure: str) -> Iterator[str]:
    if whole % part:
        yield f"{name} = {whole} must be a multiple of {by} = {part}; {cure}"


def _size_problems(config: Mapping[str, Any]) -> Iterator[str]:
    batch, processes = config["batch"], config["resources"]["processes"]
    prompts, group_size, updates = batch["prompts"], batch["group_size"], batch["updates"]
    if group_size < 2:
        yield f"batch.group_size = {group_size} must be 2 or more: advantages compare samples of a prompt"
    if prompts % processes:
        cure = f"a prompt's group never crosses a process: try batch.prompts={_nearest(prompts, processes)}"
        yield from _divides(prompts, "batch.prompts", processes, "resources.processes", cure)
        return
    local = prompts // processes
    if local % updates:
        cure = "every update takes whole groups: change either"
        yield from _divides(local, "prompts per process", updates, "batch.updates", cure)
        return
    share = local // updates * group_size
    micro = max(size for size in range(1, min(share, batch["micro"]) + 1) if share % size == 0)
    cure = f"choose batch.micro={micro}"
    yield from _divides(share, "samples per update and process", batch["micro"], "batch.micro", cure)


def _nearest(whole: int, part: int) -> int:
    return max(1, round(whole / part)) * part


def _device_problems(resources: Mapping[str, Any]) -> Iterator[str]:
    gpus, processes = resources["gpus"], resources["processes"]
    if gpus not in (0, processes):
        cure = f"choose resources.processes={gpus}, or resources.gpus=0 for the CPU"
        yield f"resources.gpus = {gpus} must be 0 or resources.processes = {processes}, one GPU each; {cure}"


def _budget_problems(budget: Mapping[str, Any]) -> Iterator[str]:
    given = [name for name, value in budget.items() if value is not None]
    own = [name for name in budget if name != SWEEP_HOURS]
    if not set(given) & set(own):
        yield f"the budget is empty; give one of {', '.join('budget.' + name for name in own)}"
    for name in given:
        if type(budget[name]) not in (int, float) or not budget[name] > 0:
            yield f"budget.{name} = {budget[name]} must be a positive number"
