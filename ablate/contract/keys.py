"""Names of what a run records; the trainer writes them, runners and analysis read them."""

from typing import Final

ITERATION: Final = "iteration"
OPTIMIZER_STEP: Final = "optimizer_step"
SAMPLES: Final = "samples"
FORWARDS: Final = (
    "forwards"  # network forwards on single samples, cumulative, all processes; a backward is not one
)
GPU_HOURS: Final = "gpu_hours"  # device-hours of rollout + reward + update, cumulative, all processes
DEVICE: Final = "device"  # "NVIDIA H100 80GB HBM3", or "cpu": there gpu_hours counts process-hours
REWARD_TOTAL: Final = "reward/total/mean"
GRAD_NORM: Final = "grad_norm"
LOG_RATIO_MEAN: Final = "log_ratio/mean"
LOG_RATIO_ABS_MAX: Final = "log_ratio/abs_max"
ADVANTAGE_ABS_MEAN: Final = "advantage/abs_mean"
GROUP_ZERO_STD: Final = "group/zero_std"
WALL_FIELDS: Final = (GPU_HOURS, "time/")  # prefixes of what a repeated run need not repeat

EVAL_VALUES: Final = "values"  # eval.jsonl: {reward name: one value per fixed prompt and sample}
EVAL_TAGS: Final = "tags"  # eval.jsonl: the prompts' tags, in the same order
EVAL_PROMPTS: Final = (
    "prompts"  # eval.jsonl: CRC-32 of each sample's prompt text, in the same order; not in old rows
)
EVAL_IMAGES: Final = "images"  # eval.jsonl: path of the sample grid, relative to the run directory


def time_of(phase: str) -> str:
    """Seconds of this iteration spent in a phase: rollout, reward, update, eval or other."""
    return f"time/{phase}_s"


def reward_mean(name: str) -> str:
    """Mean of one reward before weighting, over all processes."""
    return f"reward/{name}/mean"


def reward_std(name: str) -> str:
    """Standard deviation of one reward before weighting, over all processes."""
    return f"reward/{name}/std"


def eval_mean(name: str) -> str:
    """Mean of one reward over the evaluation prompts."""
    return f"eval/{name}/mean"


def eval_tag(name: str, tag: str) -> str:
    """Mean of one reward over the evaluation prompts of one task."""
    return f"eval/{name}/{tag}"
