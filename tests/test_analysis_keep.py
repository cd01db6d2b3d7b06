"""Kept runs draw the same table, and name no machine."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from PIL import Image
from test_analysis_report import add_run

from analysis.__main__ import main


def test_the_kept_record_gives_the_same_table(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    for seed in range(2):
        run = add_run(home, seed=seed)
        config = run.read_config()
        run.config.write_text(yaml.safe_dump(config | {"paths": {"runs": str(home)}}))
        run.update_state(host="secret", pid=1)
        for name in ("0", "1", "2"):
            (run.root / "images").mkdir(exist_ok=True)
            Image.new("RGB", (2, 2)).save(run.root / "images" / f"{name}.png")
        (run.root / "checkpoints").mkdir(exist_ok=True)
        (run.root / "checkpoints" / "latest.ckpt").write_bytes(b"weights")
    assert main([f"runs={home}", f"out={tmp_path / 'a'}", "keep=true"]) == 0
    kept = tmp_path / "a" / "adhoc" / "runs"
    assert main([f"runs={kept}", f"out={tmp_path / 'b'}"]) == 0
    tables = [(tmp_path / where / "adhoc" / "table.csv").read_text() for where in "ab"]
    assert tables[0] == tables[1]
    for root in kept.iterdir():
        assert {path.name for path in (root / "images").iterdir()} == {"0.png", "2.png"}
        assert not (root / "checkpoints").exists()
        assert str(tmp_path) not in (root / "config.yaml").read_text()
        assert not {"host", "pid"} & json.loads((root / "state.json").read_text()).keys()
