"""Makes the launchers known to Hydra, without a package on disk."""

from __future__ import annotations

import sys
from types import ModuleType

from hydra.core.plugins import Plugins

from runners.local import LocalLauncher
from runners.slurm import SlurmLauncher

PACKAGE = "hydra_plugins"  # Hydra 1.3 takes a plugin only from a module below this one
MODULE = f"{PACKAGE}.ablate_launchers"


def register() -> None:
    """Register launchers as ``hydra_plugins.ablate_launchers.<Class>``, their name in conf/hydra/launcher."""
    plugins = Plugins.instance()  # first: it imports hydra_plugins if some package on disk has one
    if MODULE in sys.modules:
        return
    if PACKAGE not in sys.modules:
        parent = ModuleType(PACKAGE)
        parent.__path__ = []
        sys.modules[PACKAGE] = parent
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module
    for launcher in (LocalLauncher, SlurmLauncher):
        named = type(launcher.__name__, (launcher,), {"__module__": MODULE})
        setattr(module, named.__name__, named)
        plugins.register(named)
