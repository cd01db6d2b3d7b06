"""Policies: one set of weights per role, under full tuning and LoRA, on an MLP and on an SD3 transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny_sd3 import SD3
from torch import Tensor

from ablate.policies.mixture2d import Mixture2D
from ablate.policies.policy import Backbone, RolePolicy
from ablate.policies.roles import Full, Lora

ROLES = ("old", "ema")
ROWS = 6


PROMPTS = {Mixture2D: [f"mode {i}" for i in range(ROWS)], SD3: ["a" * i for i in range(1, ROWS + 1)]}
TUNINGS = {"full": Full(), "lora": Lora(rank=4, alpha=8)}


@pytest.fixture(params=[Mixture2D, SD3], ids=lambda backbone: str(backbone.__name__))
def backbone(request: pytest.FixtureRequest) -> Callable[[], Backbone]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=TUNINGS)
def make(request: pytest.FixtureRequest, backbone: Callable[[], Backbone]) -> Callable[..., RolePolicy]:
    def build(**guidance: float) -> RolePolicy:
        return RolePolicy(
            backbone(),
            tuning=request.param,
            tunings=TUNINGS,
            guidance=guidance,
            snapshots=ROLES,
            device=torch.device("cpu"),
        )

    return build


@pytest.fixture
def inputs(backbone: Any) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(ROWS, *backbone.shape, generator=generator)
    return x_t, torch.linspace(0.1, 0.9, ROWS), PROMPTS[backbone]


def ask(policy: RolePolicy, role: str, inputs: tuple[Tensor, Tensor, list[str]]) -> Tensor:
    x_t, t, prompts = inputs
    return policy.velocity(role)(x_t, t, policy.encode(prompts))


def move(policy: RolePolicy, role: str = "theta") -> None:
    """Change every weight of a role; LoRA's B starts at 0, so a scale would not do."""
    state = policy.state_dict()
    generator = torch.Generator().manual_seed(2)
    for name, value in state.items():
        if name.startswith(role + "/"):
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    policy.load_state_dict(state)


def test_all_roles_begin_as_the_base(make: Any, backbone: Any, inputs: Any) -> None:
    policy, bare = make(), backbone()
    x_t, t, prompts = inputs
    with torch.no_grad():
        base = bare.network.eval()(x_t, t, *bare.encode(prompts).values())
    for role in ("theta", "ref", *ROLES):
        torch.testing.assert_close(ask(policy, role, inputs).detach(), base, rtol=1e-5, atol=1e-5)


def test_snapshots_begin_with_the_weights_of_theta(make: Any) -> None:
    state = make().state_dict()
    names = [name.removeprefix("theta/") for name in state if name.startswith("theta/")]
    assert names and len(state) == 3 * len(names)
    for role in ROLES:
        assert all(torch.equal(state[f"{role}/{name}"], state[f"theta/{name}"]) for name in names)


def test_ref_is_the_base_whatever_moves(make: Any, inputs: Any) -> None:
    policy = make()
    base = ask(policy, "ref", inputs).clone()
    for role in ("theta", *ROLES):
        move(policy, role)
        assert torch.equal(ask(policy, "ref", inputs), base)
        assert float((ask(policy, role, inputs) - base).detach().abs().max()) > 1e-3


def test_a_role_moves_alone(make: Any, inputs: Any) -> None:
    policy = make()
    before = {role: ask(policy, role, inputs).detach().clone() for role in ("theta", *ROLES)}
    move(policy, "old")
    assert torch.equal(ask(policy, "theta", inputs).detach(), before["theta"])
    assert torch.equal(ask(policy, "ema", inputs), before["ema"])
    assert not torch.equal(ask(policy, "old", inputs), before["old"])


def test_only_theta_has_gradients(make: Any, inputs: Any) -> None:
    """And they are the same whichever roles ran between forward and backward."""
    policy = make()
    move(policy)

    def gradients(between: Sequence[str]) -> list[Tensor]:
        loss = ask(policy, "theta", inputs).square().sum()
        for role in between:
            assert not ask(policy, role, inputs).requires_grad
        return list(torch.autograd.grad(loss, policy.parameters()))

    alone, among = gradients([]), gradients(["old", "ref", "ema", "old"])
    assert len(alone) == len(policy.parameters()) > 0
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert any(g.abs().max() > 1e-4 for g in alone)
    for one, two in zip(alone, among, strict=True):
        assert torch.equal(one, two)
    ask(policy, "ref", inputs)
    assert ask(policy, "theta", inputs).requires_grad
    with torch.no_grad():
        assert not ask(policy, "theta", inputs).requires_grad


def test_no_gradient_passes_through_other_roles(make: Any, inputs: Any) -> None:
    """Not even to the states they are asked at."""
    policy = make()
    x_t, t, prompts = inputs
    for role in ("theta", "ref", *ROLES):
        v = policy.velocity(role)(x_t.clone().requires_grad_(), t, policy.encode(prompts))
        assert v.requires_grad == (role == "theta")


def test_every_tuned_weight_gets_a_gradient(make: Any, inputs: Any) -> None:
    """A LoRA target that matches no layer, or a layer outside the graph, would train nothing silently."""
    policy = make()
    move(policy)
    ask(policy, "theta", inputs).square().sum().backward()
    names = [name for name in policy.state_dict() if name.startswith("theta/")]
    pairs = zip(names, policy.parameters(), strict=True)
    dead = [name for name, p in pairs if p.grad is None or not p.grad.any()]
    assert all("add_q_proj" in name or "norm_added_q" in name for name in dead)  # unused in SD3's last block


def test_an_optimizer_step_reaches_theta_alone(make: Any, inputs: Any) -> None:
    policy = make()
    before = policy.state_dict()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    ask(policy, "theta", inputs).square().sum().backward()
    optimizer.step()
    after = policy.state_dict()
    changed = {name.split("/")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"theta"}


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_blend(make: Any, inputs: Any, decay: float) -> None:
    policy = make()
    move(policy)
    before = policy.state_dict()
    policy.blend("old", "theta", decay)
    after = policy.state_dict()
    for name in before:
        role, _, weight = name.partition("/")
        expected = before[name]
        if role == "old":
            expected = decay * before[name] + (1 - decay) * before[f"theta/{weight}"]
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-7)
    if decay == 0:
        # not to the bit: torch folds a matrix product by another rule where its weights are trainable
        old, theta = ask(policy, "old", inputs), ask(policy, "theta", inputs).detach()
        torch.testing.assert_close(old, theta, rtol=1e-5, atol=1e-5)


def test_state_goes_out_and_comes_back(make: Any, inputs: Any) -> None:
    """Every bit of every role, into a policy built anew; what was saved does not move with the policy."""
    policy, other = make(), make()
    for role in ("theta", *ROLES):
        move(policy, role)
    state = policy.state_dict()
    other.load_state_dict(state)
    for role in ("theta", "ref", *ROLES):
        assert torch.equal(ask(other, role, inputs), ask(policy, role, inputs))
    copy = {name: value.clone() for name, value in state.items()}
    move(policy)
    assert all(torch.equal(state[name], copy[name]) for name in state)


def test_the_state_of_another_run_is_refused(make: Any) -> None:
    policy = make()
    state = policy.state_dict()
    poorer = dict(list(state.items())[1:])
    for wrong in (poorer, state | {"teacher/x": torch.zeros(1)}):
        with pytest.raises(
            ValueError, match="the checkpoint's weights are not this run's .*first difference"
        ):
            policy.load_state_dict(wrong)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_belongs_to_a_role(make: Any, inputs: Any, scale: float) -> None:
    """``v_0 + g (v_c - v_0)`` for the role it is given to, at two forwards a sample; the others have none."""
    policy, plain = make(old=scale), make()
    x_t, t, prompts = inputs
    conditional = ask(plain, "old", inputs)
    null = plain.velocity("old")(x_t, t, plain.encode([""] * ROWS))
    before = policy.forwards
    torch.testing.assert_close(
        ask(policy, "old", inputs), null + scale * (conditional - null), rtol=1e-5, atol=1e-5
    )
    assert policy.forwards - before == ROWS * (1 if scale == 1 else 2)
    before = policy.forwards
    torch.testing.assert_close(ask(policy, "theta", inputs).detach(), conditional, rtol=1e-5, atol=1e-5)
    assert policy.forwards - before == ROWS
    assert prompts[0] != "" and float((conditional - null).abs().max()) > 1e-3


def test_gradients_flow_through_both_branches_of_guidance(make: Any, inputs: Any) -> None:
    policy = make(theta=2.0)
    move(policy)
    x_t, t, prompts = inputs
    found = torch.autograd.grad(ask(policy, "theta", inputs).sum(), policy.parameters())
    plain = make()
    plain.load_state_dict(policy.state_dict())
    conditional = plain.velocity("theta")(x_t, t, plain.encode(prompts))
    null = plain.velocity("theta")(x_t, t, plain.encode([""] * ROWS))
    expected = torch.autograd.grad((2 * conditional - null).sum(), plain.parameters())
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("role", ["out", "layers", "0", "base_layer", "weight", "teacher:ocr"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_role_has_any_name(role: str, tuning: str) -> None:
    """Also that of a layer or a word of peft's."""
    policy = RolePolicy(
        Mixture2D(),
        tuning=tuning,
        tunings=TUNINGS,
        guidance={role: 2.0},
        snapshots=[role],
        device=torch.device("cpu"),
    )
    move(policy)
    mine, theta = ([n for n in policy.state_dict() if n.startswith(f"{r}/")] for r in (role, "theta"))
    assert len(mine) == len(theta) == len(policy.parameters())
    policy.blend(role, "theta", 0.0)
    state = policy.state_dict()
    assert all(torch.equal(state[a], state[b]) for a, b in zip(mine, theta, strict=True))


def test_what_does_not_exist_is_refused() -> None:
    def build(**changes: Any) -> RolePolicy:
        given = {"tuning": "full", "tunings": TUNINGS, "guidance": {}, "snapshots": ROLES}
        return RolePolicy(Mixture2D(), device=torch.device("cpu"), **(given | changes))

    with pytest.raises(ValueError, match=r"policy.guidance names \['teacher'\], which are no roles"):
        build(guidance={"teacher": 4.5})
    with pytest.raises(ValueError, match=r"policy.tuning = half is none of policy.tunings"):
        build(tuning="half")
    for rank, alpha in ((0, 1.0), (4, 0.0), (4, float("nan"))):
        with pytest.raises(ValueError, match="must be positive"):
            Lora(rank, alpha)


def test_lora_is_drawn_from_its_seed_and_disturbs_nobody() -> None:
    backbones = [Mixture2D() for _ in range(3)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (
        Lora(4, 8.0, seed)(backbone.network, backbone.lora_targets, ()).tensors("theta")
        for backbone, seed in zip(backbones, (0, 0, 1), strict=True)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
