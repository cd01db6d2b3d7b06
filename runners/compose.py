"""From overrides to the config of one run; no other module here speaks to Hydra's composer. No torch.

A mistake is told before the run is planned, in one line with the nearest name that exists.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.contract.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
PRIMARY = "train"
COMPOSER_ERRORS = (HydraException, OmegaConfBaseException)


Tree = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A composed run: the resolved config, and the option chosen in each group."""

    config: Tree
    choices: dict[str, str]


@contextmanager
def composing() -> Iterator[Composer]:
    """The running app's Hydra, with its --config-dir, if there is one; else our own over conf/."""
    if GlobalHydra.instance().is_initialized():
        yield Composer(GlobalHydra.instance().config_loader())
        return
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="ablate"):
        yield Composer(GlobalHydra.instance().config_loader())


@dataclass(frozen=True)
class Composer:
    """Composes cells and remembers what the groups alone compose to, to which values are compared."""

    loader: ConfigLoader
    _bases: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    _defaults: dict[tuple[str, ...], Tree] = field(default_factory=dict)
    _known: dict[str, list[str]] = field(default_factory=dict)

    def cell(self, overrides: Sequence[str]) -> Cell:
        """The run these overrides name.

        Raises:
            UserError: an override has a typo, a value of the wrong kind, or cannot be composed.
        """
        parsed = self._parse(overrides)
        groups = [override for override in parsed if self._options(override.key_or_group)]
        for override in groups:
            self._check_group(override)
        chosen = tuple(_text(override) for override in groups)
        base, defaults = self._base(chosen), self._default(chosen)
        values = [override for override in parsed if override not in groups]
        for override in values:
            self._check_key(override, defaults)
        full = _changed(base, values)
        config = _tree(self._compose([*map(_text, parsed)]) if full is None else full, throw_on_missing=True)
        for override in values:
            _check_value(override, defaults, config)
        choices = base.hydra.runtime.choices.items()
        return Cell(config, {str(k): str(v) for k, v in choices if not str(k).startswith("hydra/")})

    def product(self, overrides: Sequence[str]) -> list[tuple[str, ...]]:
        """Comma lists and ranges to cells, in the order in which Hydra's own sweeper takes them."""
        options: list[list[str]] = []
        for override in self._parse(overrides):
            swept = override.is_sweep_override()
            if swept and not override.is_discrete_sweep():
                raise UserError(f"{_text(override)} is no list of values; a grid needs one, e.g. seed=0,1,2")
            texts = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
            options.append([f"{override.get_key_element()}={text}" for text in texts])
        return list(itertools.product(*options))

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self.loader)
        parsed: list[Override] = []
        for text in overrides:
            try:
                parsed.append(parser.parse_override(text))
            except COMPOSER_ERRORS as error:
                cure = "write key=value, and lists without spaces: seed=0,1,2"
                raise UserError(f"cannot read '{text}'; {cure}") from error
        return parsed

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return compose(PRIMARY, list(overrides), return_hydra_config=True)
        except COMPOSER_ERRORS as error:
            raise UserError(one_line(error)) from error

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._bases:
            self._bases[groups] = self._compose(groups)
        return self._bases[groups]

    def _default(self, groups: tuple[str, ...]) -> Tree:
        if groups not in self._defaults:  # the same for all seeds of a grid
            self._defaults[groups] = _tree(self._base(groups), throw_on_missing=False)
        return self._defaults[groups]

    def _options(self, group: str) -> list[str]:
        if group not in self._known:
            subs = self.loader.list_groups(group)
            below = (f"{sub}/{name}" for sub in subs for name in self._options(f"{group}/{sub}"))
            self._known[group] = [*self.loader.get_group_options(group, ObjectType.CONFIG), *below]
        return self._known[group]

    def _check_group(self, override: Override) -> None:
        group, value = override.key_or_group, override.value()
        options = self._options(group)
        if override.is_add() and group in self._base(()).hydra.runtime.choices:
            raise UserError(f"{_text(override)}: a run has its {group} already; leave out the '+'")
        if override.is_delete():
            raise UserError(f"{_text(override)}: a run needs its {group}; choose from {', '.join(options)}")
        for name in value if isinstance(value, list) else [value]:
            if str(name) not in options:
                near = did_you_mean(str(name), options)
                raise UserError(f"{group}={name}: no such {group}{near}; choose from {', '.join(options)}")

    def _check_key(self, override: Override, defaults: Tree) -> None:
        key = override.key_or_group
        parent, found = _lookup(defaults, key)
        if found or key.startswith("hydra."):
            return
        names = [*self.loader.list_groups(""), *_keys(defaults)]
        if override.is_add() or override.is_force_add():
            if not any("_target_" in node for node in _above(defaults, key)):
                raise UserError(f"{_text(override)}: nothing reads a key '{key}'{did_you_mean(key, names)}")
            return
        near = did_you_mean(key, names)
        here = f"; there are {', '.join(name for name in parent if name != '_target_')}" if parent else ""
        raise UserError(f"{_text(override)}: no key or group '{key}'{near or here}")


def one_line(error: Exception) -> str:
    """The telling lines of a composer's error as one, without its advice on stack traces."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = ("full_key:", "object_type=", "reference_type=", "Config search path", "provider=", "See https")
    return "; ".join(line for line in lines if line and not line.startswith(noise))


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the nearest name, or for the same last word elsewhere; else nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    last = name.rpartition(".")[2]
    close = close or [other for other in names if other.rpartition(".")[2] == last][:1]
    return f"; did you mean '{close[0]}'?" if close else ""


def _text(override: Override) -> str:
    return str(override.input_line)


def _changed(base: DictConfig, values: Sequence[Override]) -> DictConfig | None:
    """Plain changes of values, as Hydra makes them but without composing again; None if one is not plain."""
    plain = (
        value.type is OverrideType.CHANGE and not value.key_or_group.startswith("hydra.") for value in values
    )
    if not all(plain):
        return None
    full = _own(base)
    try:
        for value in values:
            OmegaConf.update(full, value.key_or_group, value.value(), merge=True)
    except OmegaConfBaseException:
        return None  # Hydra tells what is wrong with it
    return full


def _own(full: DictConfig) -> DictConfig:
    own = OmegaConf.masked_copy(full, [str(name) for name in full if name != "hydra"])
    OmegaConf.set_struct(own, True)
    return own


def _tree(full: DictConfig, *, throw_on_missing: bool) -> Tree:
    try:
        own = _own(full) if "hydra" in full else full  # a copy costs more than all the rest
        tree = OmegaConf.to_container(own, resolve=True, throw_on_missing=throw_on_missing)
    except COMPOSER_ERRORS as error:
        raise UserError(one_line(error)) from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _lookup(tree: Tree, key: str) -> tuple[Tree, bool]:
    """The mapping that should hold a dotted key (empty if there is none), and whether it does."""
    *path, last = key.split(".")
    for name in path:
        tree = tree.get(name, {})
        if not isinstance(tree, dict):
            return {}, False
    return tree, last in tree


def _above(tree: Tree, key: str) -> Iterator[Tree]:
    for name in key.split(".")[:-1]:
        tree = tree.get(name, {})
        if not isinstance(tree, dict):
            return
        yield tree


def _keys(tree: Tree, prefix: str = "") -> Iterator[str]:
    for name, node in tree.items():
        yield f"{prefix}{name}"
        if isinstance(node, dict):
            yield from _keys(node, f"{prefix}{name}.")


def _check_value(override: Override, defaults: Tree, config: Tree) -> None:
    """Compare the kind of a value with that of the default it replaces; 1 for a float is stored as 1.0.

    A part may take a list for a number, one for each step; its constructor knows.

    Raises:
        UserError: the kinds differ.
    """
    key = override.key_or_group
    last = key.rpartition(".")[2]
    old, known = _lookup(defaults, key)
    new, kept = _lookup(config, key)
    if not known or not kept or old[last] is None or new[last] is None:
        return
    if _kind(old[last]) == "a number" and _kind(new[last]) == "a whole number":
        new[last] = float(new[last])
    kind = _kind(old[last])
    in_a_part = any("_target_" in node for node in _above(defaults, key))
    if kind == "a number" and in_a_part and _kind(new[last]) == "a list":
        return
    if _kind(new[last]) != kind:
        raise UserError(f"{_text(override)}: {key} must be {kind}, as in {key}={json.dumps(old[last])}")


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", list: "a list"}
    return names.get(type(value), "a mapping")
