"""The loop: prompts -> rollout -> rewards -> credit -> learner -> one row. There is no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ablate import checkpoint
from ablate.clock import Clock
from ablate.contract import keys
from ablate.contract.rundir import RunDir
from ablate.distributed import Distributed
from ablate.evaluate import Evaluator
from ablate.judge import judge
from ablate.key import Key
from ablate.parts import Parts
from ablate.preflight.preflight import Preflight
from ablate.preflight.trial import Trial
from ablate.progress import ProgressLine
from ablate.prompt_order import prompt_slots
from ablate.protocols import Learner, Policy
from ablate.record import Recorder
from ablate.rollout import Request, collect
from ablate.settings import BatchSizes, Budget
from ablate.types import Feedback, Prompt, Rollout

_STATE_EVERY_S = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a run has come; saved in its checkpoint, with the clock's hours."""

    iteration: int = 0
    samples: int = 0
    forwards: int = 0
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class Lab:
    """Everything one run is made of."""

    run: RunDir
    seed: int
    parts: Parts
    policy: Policy
    learner: Learner
    evaluator: Evaluator
    batch: BatchSizes
    budget: Budget
    preflight: Preflight
    promises: frozenset[str]
    checkpoint_every: int
    distributed: Distributed


def train(lab: Lab, recorder: Recorder | None, stopped: Callable[[], bool]) -> str:
    """Run until the budget is spent or somebody asks to stop; returns "done" or "stopped".

    Args:
        recorder: writes the rows; None on all processes but the first.
        stopped: polled after every iteration; a stop leaves a checkpoint.
    """
    now = resume(lab)
    clock = Clock(lab.distributed, now.gpu_hours)
    line = ProgressLine(lab.run.name, enabled=recorder is not None, spent=_spent(lab, now))
    if recorder is not None:
        recorder.rewind(now.iteration, now.gpu_hours)
    if now.iteration == 0:
        _evaluate(lab, recorder, now, clock)
    shown = 0.0
    while (spent := _spent(lab, now)) < 1 and not lab.distributed.agree(stopped()):
        hours_before = now.gpu_hours
        now, row = iterate(lab, now, clock)
        spent = _spent(lab, now)
        if recorder is not None:
            recorder.row(row)
            if spent >= 1 or time.monotonic() - shown > _STATE_EVERY_S:
                shown = time.monotonic()
                _report(lab, line, now, row, spent)
        if spent >= 1 or lab.evaluator.settings.due(now.iteration, hours_before, now.gpu_hours):
            _evaluate(lab, recorder, now, clock)
        if spent >= 1 or now.iteration % lab.checkpoint_every == 0:
            _save(lab, now)
    _save(lab, now)
    line.close()
    return "done" if spent >= 1 else "stopped"


def iterate(lab: Lab, now: Progress, clock: Clock) -> tuple[Progress, dict[str, Any]]:
    """One iteration: one rollout, one learner update, one row."""
    parts, batch, distributed = lab.parts, lab.batch, lab.distributed
    key = Key((lab.seed, now.iteration))
    forwards = lab.policy.forwards
    prompts, request = _request(lab, now.iteration)
    with clock.phase("rollout"):
        texts = [prompt.text for prompt in prompts]
        rollout = collect(
            lab.policy, parts.sampler, parts.start, texts, request=request, key=key.of("rollout")
        )
    with clock.phase("reward"):
        feedback, row = judge(
            lab.policy,
            parts.reward,
            parts.advantage,
            rollout,
            prompts,
            chunk=batch.rollout,
            distributed=distributed,
        )
    if now.iteration == 0:
        forwards += _preflight(lab, rollout, feedback, key.of("update"))
    with clock.phase("update"):
        row |= lab.learner.update(rollout, feedback, key.of("update"))
    seconds = clock.close_iteration()
    now = Progress(
        iteration=now.iteration + 1,
        samples=now.samples + len(prompts) * distributed.world,
        forwards=now.forwards + round(distributed.total(lab.policy.forwards - forwards)),
        gpu_hours=clock.gpu_hours,
    )
    row |= {keys.time_of(phase): value for phase, value in distributed.mean(seconds).items()}
    row["x0_norm"] = distributed.total(float(rollout.x0.square().mean().sqrt())) / distributed.world
    return now, row | _where(lab, now)


def _request(lab: Lab, iteration: int) -> tuple[list[Prompt], Request]:
    """This process's prompts, each repeated for its group, and the labels that name their randomness."""
    batch, rank, device = lab.batch, lab.distributed.rank, lab.distributed.device
    local = batch.prompts // lab.distributed.world
    train = lab.parts.prompts.train
    slots = prompt_slots(len(train), batch.prompts, iteration, lab.seed)[rank * local : (rank + 1) * local]
    group = torch.arange(rank * local, (rank + 1) * local, device=device).repeat_interleave(batch.group_size)
    sample = torch.arange(len(group), device=device) + rank * len(group)
    prompts = [train[slot] for slot in slots for _ in range(batch.group_size)]
    role = lab.parts.snapshots.rollout
    return prompts, Request(role, group, sample, lab.learner.keep, batch.rollout)


def _preflight(lab: Lab, rollout: Rollout, feedback: Feedback, key: Key) -> int:
    """The checks before the first update; their forwards, and their seconds, are none of the method's."""
    before = lab.policy.forwards
    trial = Trial(
        parts=lab.parts,
        policy=lab.policy,
        batch=lab.batch,
        distributed=lab.distributed,
        promises=lab.promises,
        rollout=rollout,
        feedback=feedback,
        key=key,
    )
    lab.preflight(trial, lab.run)
    return lab.policy.forwards - before


def _where(lab: Lab, now: Progress) -> dict[str, Any]:
    return {
        keys.ITERATION: now.iteration,
        keys.SAMPLES: now.samples,
        keys.FORWARDS: now.forwards,
        keys.GPU_HOURS: now.gpu_hours,
        keys.DEVICE: lab.distributed.device_name,
    }


def _spent(lab: Lab, now: Progress) -> float:
    return lab.budget.spent(now.iteration, now.samples, now.gpu_hours)


def _evaluate(lab: Lab, recorder: Recorder | None, now: Progress, clock: Clock) -> None:
    done = recorder is not None and recorder.evaluated(now.iteration)
    if lab.distributed.agree(done):
        return
    picture = f"images/{now.iteration:07d}.png"
    with clock.phase("eval"):
        row = lab.evaluator(lab.policy, lab.run.root / picture)
    if recorder is not None:
        recorder.evaluation(row | _where(lab, now) | {keys.EVAL_IMAGES: picture})


def _report(lab: Lab, line: ProgressLine, now: Progress, row: dict[str, Any], spent: float) -> None:
    reward = float(row[keys.REWARD_TOTAL])
    line.show(spent=spent, iteration=now.iteration, reward=reward, gpu_hours=now.gpu_hours)
    lab.run.update_state(
        iteration=now.iteration, reward=reward, gpu_hours=now.gpu_hours, spent=spent, eta_s=line.eta_s(spent)
    )


def _save(lab: Lab, now: Progress) -> None:
    if lab.distributed.is_main:
        checkpoint.save(lab.run.checkpoint, {"progress": asdict(now), "learner": lab.learner.state_dict()})


def resume(lab: Lab) -> Progress:
    """Load the run's checkpoint, if it has one, into the learner; every process reads the same file."""
    if not lab.run.checkpoint.exists():
        return Progress()
    state = checkpoint.load(lab.run.checkpoint)
    lab.learner.load_state_dict(state["learner"])
    return Progress(**state["progress"])
