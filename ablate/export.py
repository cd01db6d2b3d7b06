"""A run's adapter as a LoRA that diffusers loads: ``python -m ablate.export runs/<signature> FOLDER``.

``pipe.load_lora_weights(FOLDER)`` on the run's base checkpoint then draws what the run's policy draws.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ablate import checkpoint
from ablate.contract import keys
from ablate.contract.errors import IncompatibleRun, UserError
from ablate.contract.rundir import RunDir, last_row, write_text

WEIGHTS = "pytorch_lora_weights.safetensors"  # the name diffusers looks for
_PREFIX = "base_model.model."  # peft's, before the names of a backbone's own modules


def export(run: RunDir, role: str, folder: Path) -> Path:
    """Write a role's adapter and a model card to ``folder``; returns the path of the weights.

    The scale alpha / rank is multiplied into B, so that no reader needs to know it.

    Raises:
        UserError: the run has no checkpoint, no adapters, no such role, or its base is no diffusers pipeline.
    """
    config = run.read_config()
    policy = config["policy"]
    kind = policy.get("checkpoints", {}).get("backbone.checkpoint")
    if kind is None or policy["tuning"] != "lora":
        raise IncompatibleRun(
            f"{run.root} has no adapter on a diffusers pipeline; export needs one of the large policies and "
            "policy.tuning=lora"
        )
    if not run.checkpoint.exists():
        raise UserError(f"{run.root} has no checkpoint yet; train it first")
    state = checkpoint.load(run.checkpoint)
    lora = policy["tunings"]["lora"]
    weights = adapter(state["learner"]["policy"], role, lora["alpha"] / lora["rank"])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    write_text(folder / "README.md", card(run, config, role, state["progress"]))
    return folder / WEIGHTS


def adapter(state: Mapping[str, Tensor], role: str, scale: float) -> dict[str, Tensor]:
    """A role's tensors under the names diffusers gives them, B multiplied by ``scale``.

    Raises:
        UserError: the checkpoint has no such role.
    """
    own = {
        name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{role}/{_PREFIX}")
    }
    if not own:
        roles = sorted({name.partition("/")[0] for name in state})
        raise UserError(f"the checkpoint has no role '{role}'; it has {', '.join(roles)}")
    return {
        f"{name.removeprefix(_PREFIX)}.weight": (
            value * scale if name.endswith("lora_B") else value
        ).contiguous()
        for name, value in own.items()
    }


def card(run: RunDir, config: Mapping[str, Any], role: str, progress: Mapping[str, Any]) -> str:
    """The model card: base, recipe, what it cost, and the last evaluation with its standard errors."""
    base = config["policy"]["backbone"]["checkpoint"]
    parts = {group: config.get("choices", {}).get(group) for group in ("objective", "estimator", "sampler")}
    rows = [f"| {group} | {choice} |" for group, choice in parts.items() if choice]
    rows += [
        f"| iterations, images | {progress['iteration']}, {progress['samples']} |",
        f"| device-hours | {progress['gpu_hours']:.3g} on {last_row(run.metrics).get(keys.DEVICE, '?')} |",
        f"| guidance of {role} | {config['policy']['guidance'].get(role, 1.0)} |",
    ]
    asked = run.overrides.read_text().strip() if run.overrides.exists() else ""
    return "\n".join(
        [
            *(
                "---",
                f"base_model: {base}",
                "library_name: diffusers",
                "tags: [lora, text-to-image]",
                "---",
                "",
            ),
            *(f"# {run.name}: the role {role}", "", "| | |", "|---|---|", *rows, ""),
            *("Last evaluation:", "", *_evaluation(last_row(run.evals)), ""),
            *("```python", f'pipe.load_lora_weights("{run.name}")', "```", ""),
            *("Made by:", "", "```", asked or "(command lines were not kept)", "```", ""),
        ]
    )


def _evaluation(row: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, values in row.get(keys.EVAL_VALUES, {}).items():
        mean, n = sum(values) / len(values), len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1) / n)
        lines.append(f"- {name}: {mean:.4f} ± {spread:.4f} (standard error over {n} images)")
    return lines or ["none yet"]


def main() -> int:
    """Entry point; 1 after a mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m ablate.export", description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("folder", type=Path, help="where to write the LoRA and its card")
    parser.add_argument("--role", default="ema", help="whose adapter [%(default)s]")
    arguments = parser.parse_args()
    try:
        print(export(RunDir(arguments.run), arguments.role, arguments.folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
