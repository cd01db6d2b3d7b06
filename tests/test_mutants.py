"""The mutation check itself: what it plants, and that a planted bug dies if, and only if, a test looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutate import mutants

TESTED = '''"""Half, but - not in here - twice."""

NAMES: dict[str, int] = {"half": 1}


def half(x: float) -> float:
    if not x:
        raise ValueError(f"{x - 1} is not 1")
    return x / 2
'''
IDLE = "def twice(x: float) -> float:\n    return 2 * x\n"
TEST = """import pytest
from small.tested import half


def test_half() -> None:
    assert half(3.0) == 1.5
    with pytest.raises(ValueError):
        half(0.0)
"""
ASK = """
import json, pathlib, sys
import mutants
files = sorted(pathlib.Path("small").resolve().glob("*.py"))
found = mutants.check(pathlib.Path.cwd(), files, ["tests/test_small.py"])
print(json.dumps([[m.path, m.becomes, died] for m, died in found.items()]), file=sys.stderr)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of two functions, of which one is tested."""
    root = tmp_path.resolve()
    for path, text in {
        "small/tested.py": TESTED,
        "small/idle.py": IDLE,
        "tests/test_small.py": TEST,
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    return root


def check(root: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(root), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


def test_a_planted_bug_dies_and_one_without_a_test_survives(project: Path) -> None:
    found = json.loads(check(project).stderr.splitlines()[-1])
    assert sorted(found) == [
        ["small/idle.py", "return 2 / x", False],
        ["small/idle.py", "return 4 * x", False],
        ["small/tested.py", 'NAMES: dict[str, int] = {"half": 2}', False],  # read by nobody
        ["small/tested.py", "if x:", True],
        ["small/tested.py", "return x", True],
        ["small/tested.py", "return x * 2", True],
        ["small/tested.py", "return x / 4", True],
    ]


def test_nothing_is_planted_while_the_unchanged_code_fails(project: Path) -> None:
    (project / "tests/test_small.py").write_text(TEST.replace("1.5", "1.6"))
    assert "tests/test_small.py fails on the unchanged code" in check(project).stdout


@pytest.mark.parametrize(
    ("line", "planted"),
    [
        ("x = (a + b) - c", {"x = (a - b) - c", "x = (a + b) + c"}),
        ("x = (a) / (b + 1)", {"x = (a) * (b + 1)", "x = (a)", "x = (a) / (b - 1)", "x = (a) / (b + 2)"}),
        ("x = -a.detach()", {"x = a.detach()", "x = -a"}),
        ("x = a.mean(1)", {"x = a.sum(1)", "x = a.mean(0)"}),
        ("x = a.std(correction=0)", {"x = a.var(correction=0)", "x = a.std(correction=1)"}),
        ("x = a.clamp(min=b)", {"x = a", "x = a.clamp(max=b)"}),
        ("x = torch.maximum(a, b)", {"x = torch.minimum(a, b)"}),
        ("x = 0 < a <= b", {"x = 1 < a <= b", "x = 0 > a <= b", "x = 0 < a >= b"}),
        ("a = ev.v - ev.v_of[r]", {
            "a = ev.v + ev.v_of[r]", "a = ev.v.detach() - ev.v_of[r]",
            "a = ev.v_of[r] - ev.v_of[r]", "a = ev.v - ev.v",
        }),
        ('x = d["v:old"]', {'x = d["v:ref"]'}),
        ("x += a.view(-1, 1)", {"x -= a.view(-1, 1)"}),
        ("with torch.no_grad(): pass", {"with torch.enable_grad(): pass"}),
        ("x: Tensor = 1", {"x: Tensor = 2"}),
    ],
)  # fmt: skip
def test_what_is_planted(line: str, planted: set[str]) -> None:
    assert {m.becomes for m in mutants("f.py", f"def f():\n    {line}\n")} == planted


def test_a_returned_tensor_and_a_loss_change_sign() -> None:
    source = "def f(a) -> Tensor:\n    return Loss(a), g(a)\n"
    assert {m.becomes for m in mutants("f.py", source) if m.operator == "sign"} == {
        "return -(Loss(a), g(a))",
        "return Loss(-(a)), g(a)",
    }


def test_a_mutant_knows_its_function() -> None:
    source = "@decorated\ndef f():\n    return 1 + 2\n\n\nX = 1 + 2\n"
    assert {m.function for m in mutants("f.py", source)} == {(1, 3), None}
