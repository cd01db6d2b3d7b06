"""One run read from its directory, from W&B's offline file and from W&B's server gives the same frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from ablate.contract import keys
from ablate.contract.errors import UserError
from ablate.contract.rundir import RunDir, signature, write_text
from ablate.record import Recorder
from analysis.__main__ import main, named_runs
from analysis.load import Frames, frames
from analysis.record import RunRecord
from analysis.sources.rundir import read_run
from analysis.sources.wandb_api import read_project
from analysis.sources.wandb_file import payloads, read_files

CONFIG: dict[str, Any] = {
    "seed": 3,
    "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]},
    "reward": {"headline": "strict"},
    "evaluation": {"seed": 7, "samples_per_prompt": 1},
    "logging": {"wandb": "offline", "project": "test", "entity": None, "tags": []},
    "choices": {"objective": "epg", "estimator": "elbo", "sampler": "ode", "policy": "shapes"},
}
SCORES = 3000  # of an evaluation: its record is longer than a block of 32 KiB


def begin(runs: Path) -> RunDir:
    run = RunDir(runs / signature(CONFIG))
    write_text(run.config, yaml.safe_dump(CONFIG))
    return run


def write(run: RunDir, iterations: range) -> None:
    """What the trainer records: every iteration, and an evaluation after each second one."""
    recorder = Recorder(run, CONFIG)
    for iteration in iterations:
        shared = {
            keys.ITERATION: iteration,
            keys.SAMPLES: 144 * iteration,
            keys.FORWARDS: 1000 * iteration,
            keys.GPU_HOURS: iteration / 7.0,
            keys.DEVICE: "cpu",
        }
        if iteration:
            recorder.row(shared | {keys.REWARD_TOTAL: 0.1 * iteration, keys.time_of("rollout"): 1.0 / 3.0})
        if iteration % 2 == 0:
            image = f"images/{iteration:07d}.png"
            run.images.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 4)).save(run.root / image)
            scores = [(iteration + place) / 7.0 for place in range(SCORES)]
            recorder.evaluation(
                shared
                | {
                    keys.eval_mean("strict"): sum(scores) / SCORES,
                    keys.EVAL_VALUES: {"strict": scores},
                    keys.EVAL_TAGS: ["one"] * SCORES,
                    keys.EVAL_PROMPTS: list(range(SCORES)),
                    keys.EVAL_IMAGES: image,
                }
            )
    recorder.close()


@dataclass
class ServerRun:
    """What ``wandb.Api().runs(...)`` gives: rows in no order that helps, nested keys with dots, nulls."""

    record: RunRecord

    @property
    def id(self) -> str:
        return self.record.signature

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.record.config)

    state = "finished"

    def scan_history(self, page_size: int) -> Iterator[dict[str, Any]]:
        assert page_size <= 1000
        for step, row in enumerate([*self.record.metrics, *self.record.evals]):
            flat = {key: value for key, value in row.items() if key != keys.EVAL_VALUES}
            for name, scores in row.get(keys.EVAL_VALUES, {}).items():
                flat[f"{keys.EVAL_VALUES}.{name}"] = scores
            yield flat | {"_step": step, "_runtime": 1.5, keys.LOG_RATIO_MEAN: None}


@dataclass
class Server:
    found: list[ServerRun]

    def runs(self, path: str) -> list[ServerRun]:
        assert path == "someone/project"
        return self.found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that was stopped after iteration 4 and went on from its checkpoint at iteration 3."""
    run = begin(tmp_path_factory.mktemp("runs"))
    write(run, range(5))
    recorder = Recorder(run, CONFIG | {"logging": {"wandb": "disabled"}})
    recorder.rewind(3, 0.0)
    write(run, range(4, 8))
    return run


def same(found: Frames, wanted: Frames) -> None:
    for name in ("metrics", "evals"):
        first, second = getattr(found, name), getattr(wanted, name)
        pd.testing.assert_frame_equal(first[sorted(first)], second[sorted(second)])
        assert len(second) > 2


def test_three_sources_give_one_frame(recorded: RunDir) -> None:
    directory = read_run(recorded.root)
    wanted = frames([directory])
    assert wanted.metrics[keys.ITERATION].tolist() == [1, 2, 3, 4, 5, 6, 7]
    (offline,) = read_files(recorded.root)
    same(frames([offline]), wanted)
    (served,) = read_project("someone/project", Server([ServerRun(directory)]))
    same(frames([served]), wanted)
    for record in (offline, served):
        assert (record.signature, record.seed, record.choices) == (directory.signature, 3, directory.choices)
        assert record.progress == "done"


def test_two_starts_of_a_run_are_one(recorded: RunDir) -> None:
    assert len(list(recorded.root.rglob("run-*.wandb"))) == 2
    (offline,) = read_files(recorded.root)
    assert [row[keys.ITERATION] for row in offline.evals] == [0, 2, 4, 6]


def test_a_torn_file_gives_what_came_before(recorded: RunDir, tmp_path: Path) -> None:
    path = min(recorded.root.rglob("run-*.wandb"), key=lambda path: path.parent.name)
    content = path.read_bytes()
    whole = list(payloads(content))
    for cut in (1, 7, len(content) // 2):
        left = list(payloads(content[:-cut]))
        assert left == whole[: len(left)]
        assert len(left) < len(whole)
    torn = tmp_path / path.name
    torn.write_bytes(content[: len(content) // 2])
    (record,) = read_files(torn)
    assert record.progress == "running"
    assert len(record.evals) in (1, 2)


def test_records_longer_than_a_block_are_joined() -> None:
    """Written by hand from the format: a chunk per block, and padding where no header fits."""
    long = bytes(range(256)) * 300
    first = (1 << 15) - 7 - 7
    content = b":W&B\x00\x00\x00" + struct.pack("<IHB", 0, first, 2) + long[:first]
    middle = (1 << 15) - 7
    content += struct.pack("<IHB", 0, middle, 3) + long[first : first + middle]
    rest = long[first + middle :]
    content += struct.pack("<IHB", 0, len(rest), 4) + rest
    fill = (1 << 15) - len(content) % (1 << 15) - 7 - 3
    content += struct.pack("<IHB", 0, fill, 1) + b"x" * fill + b"\0" * 3
    content += struct.pack("<IHB", 0, 2, 1) + b"ok"
    assert list(payloads(content)) == [long, b"x" * fill, b"ok"]


def test_sources_are_named_on_the_command_line(recorded: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = named_runs(f"offline:{recorded.root.parent}", recorded.root)
    assert record.signature == recorded.name
    for where, says in (
        ("offline:nowhere", "holds no run-*.wandb"),
        (f"offline:{recorded.config}", "holds no run-*.wandb"),
        ("wandb:project", "give wandb:entity/project"),
    ):
        assert main([f"runs={where}"]) == 1
        assert says in capsys.readouterr().err


def test_a_project_of_others_is_told_apart() -> None:
    strange = RunRecord("abc", {"lr": 1.0}, (), (), {}, "", "", None)
    with pytest.raises(UserError, match="was not recorded by ablate"):
        read_project("someone/project", Server([ServerRun(strange)]))
    with pytest.raises(UserError, match="has no runs"):
        read_project("someone/project", Server([]))
