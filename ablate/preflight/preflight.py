"""Cheap checks before the first update of a run, for the mistakes that this field makes in silence."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.contract.errors import FailedPreflight
from ablate.contract.rundir import RunDir, write_text
from ablate.distributed import Distributed
from ablate.preflight.finding import Finding
from ablate.preflight.gradients import contrast, objective_reaches_theta, regularizer_reaches_theta
from ablate.preflight.roles import guidance_agrees, on_policy
from ablate.preflight.samples import advantages_centred, images_in_range, rewards_differ
from ablate.preflight.snapshots import snapshots_lag
from ablate.preflight.trial import Trial

CHECKS = (  # causes before what follows from them
    images_in_range,
    rewards_differ,
    advantages_centred,
    guidance_agrees,
    on_policy,
    snapshots_lag,
    objective_reaches_theta,
    contrast,
    regularizer_reaches_theta,
)


@dataclass(frozen=True)
class Preflight:
    """All checks on the first rollout: each has a name, a number, what it must be, and a cure.

    They cost one group's share of an update, and change no bit of what follows.

    Attributes:
        strict: a check that fails ends the run; False tells it and goes on.
    """

    strict: bool

    def __call__(self, trial: Trial, run: RunDir) -> None:
        """Check on every process, agree, and write ``preflight.json``.

        Raises:
            FailedPreflight: on every process, if ``strict`` and a check failed on any.
        """
        began = time.perf_counter()
        findings = _agreed([check(trial) for check in CHECKS], trial.distributed)
        seconds = time.perf_counter() - began
        failed = [finding for finding in findings if not finding.ok]
        if trial.distributed.is_main:
            self._record(run, findings, seconds)
            for finding in [] if self.strict else failed:
                print(f"{run.root}: warning: preflight {finding.line()}", file=sys.stderr, flush=True)
        if self.strict and failed:
            told = "; and ".join(finding.line() for finding in failed)
            raise FailedPreflight(
                f"preflight {told}; nothing was trained; preflight=warn trains all the same"
            )

    def _record(self, run: RunDir, findings: Sequence[Finding], seconds: float) -> None:
        passed = sum(finding.ok for finding in findings)
        record = {
            "passed": passed == len(findings),
            "strict": self.strict,
            "seconds": seconds,
            "checks": [finding.record() for finding in findings],
        }
        write_text(run.preflight, json.dumps(record, indent=1, allow_nan=False) + "\n")
        print(
            f"{run.root}: preflight {passed} of {len(findings)} checks passed in {seconds:.2f} s", flush=True
        )


def _agreed(findings: Sequence[Finding], distributed: Distributed) -> list[Finding]:
    """Of every check, a failure if there is one, else a measurement, else that there is none."""
    everyone = distributed.gather_objects([list(findings)])
    return [
        min(same, key=lambda finding: (finding.ok, finding.number is None))
        for same in zip(*everyone, strict=True)
    ]
