"""Inputs and published values of the loss vectors: D = 4, a batch of 2, fp64 (specification 14.3 to 14.5)."""

from __future__ import annotations

import torch
from torch import Tensor


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


X0 = _rows((0.5, -0.2, 0.1, 0.3), (-0.4, 0.6, 0.0, 0.2))
EPS = _rows((1, -0.5, 0.25, -1), (0.3, 0.8, -1.2, 0.1))
T = torch.tensor([0.6, 0.3], dtype=torch.float64)
A = torch.tensor([1.5, -0.8], dtype=torch.float64)
TARGET = EPS - X0
REF = TARGET + _rows((0.1, -0.2, 0.05, 0.1), (0.2, 0.1, -0.1, 0.05))
OLD = REF + _rows((0.02, 0.01, -0.03, 0.04), (-0.01, 0.03, 0.02, -0.02))
THETA = OLD + _rows((-0.05, 0.04, 0.02, -0.01), (0.03, -0.02, 0.01, 0.05))
VELOCITIES = {"theta": THETA, "old": OLD, "ref": REF}

ELBO = {  # weighting: scores of theta, old, ref
    "adaptive": _rows((-0.07061538, -0.04487500), (-0.09000000, -0.04206977), (-0.08333333, -0.04166667)),
    "t": _rows((-0.00413100, -0.00161550), (-0.00634500, -0.00135675), (-0.00562500, -0.00140625)),
    "uniform": _rows((-0.01147500, -0.01795000), (-0.01762500, -0.01507500), (-0.01562500, -0.01562500)),
    "likelihood": _rows((-0.00763727, -0.04174419), (-0.01173045, -0.03505814), (-0.01039933, -0.03633721)),
}
LOSS = {  # objective: value under the adaptive and under the uniform weighting
    "epg": (0.03609848, 0.00149995),
    "epg_noratio": (0.03501154, 0.00142625),
    "pepg": (0.03546342, 0.00149018),
    "par": (0.71721777, 0.71973462),
    "grpo": (-0.35115000, -0.35115000),
}
ADAPTIVE_GRADIENT = {
    "epg": _rows((0.164700, -0.352929, 0.094115, 0.305872), (-0.109692, -0.054846, 0.034902, -0.039888)),
    "epg_noratio": _rows((0.161538, -0.346154, 0.092308, 0.3), (-0.11, -0.055, 0.035, -0.04)),
    "pepg": _rows((0.162572, -0.348368, 0.092898, 0.301919), (-0.109307, -0.054654, 0.034780, -0.039748)),
    "par": _rows((0.162572, -0.348368, 0.092898, 0.301919), (-0.109307, -0.054654, 0.034780, -0.039748)),
    "grpo": torch.zeros(2, 4, dtype=torch.float64),
}
UNIFORM_GRADIENT = {
    "epg": _rows((0.026412, -0.056597, 0.015093, 0.049051), (-0.043874, -0.021937, 0.013960, -0.015954)),
    "epg_noratio": _rows((0.02625, -0.05625, 0.015, 0.04875), (-0.044, -0.022, 0.014, -0.016)),
    "pepg": _rows((0.026304, -0.056365, 0.015031, 0.048850), (-0.043716, -0.021858, 0.013910, -0.015897)),
    "par": _rows((0.026304, -0.056365, 0.015031, 0.048850), (-0.043716, -0.021858, 0.013910, -0.015897)),
    "grpo": torch.zeros(2, 4, dtype=torch.float64),
}
GIRSANOV = 8.375e-4  # mean over the batch of mean |v - v_ref|^2
NFT = {1.0: 0.32004927, 0.1: 3.28631814}  # policy loss by mix
AWM_SCORES = {  # its weightings: scores of theta
    "ghuber": (-0.77791637, -0.43544069),
    "t": (-0.006885, -0.005385),
    "huber": (-0.06426686, -0.04019028),
}
AWM_OLD = (-0.86687773, -0.41668549)  # ghuber, old
AWM_RATIO = (1.09303842, 0.98141958)
AWM_LOSS = -0.08544220  # advantages divided by 5, clip 1
DGPO_WEIGHT, DGPO_LOSS = 0.40029166, 5.70915982e-4  # one group, sharpness 100, clip .01, uniform scores
DGPO_RATIO, DGPO_PREFERENCE = [1.00616895, 0.99712913], -0.40425
RAM_LOSS = 0.02135713  # multiplier 1

# One Flow-SDE step at noise level .7 from .79037 to .70728 (specification 14.6)
STEP_TIMES = (0.79037, 0.70728)
STEP_X, STEP_EPS = _rows((0.5, -0.3, 0.2, 0.9)), _rows((0.2, -0.7, 1.1, 0.4))
STEP_OLD = _rows((0.3, 0.1, -0.4, 0.2))
STEP_THETA = STEP_OLD + _rows((0.03, -0.02, 0.05, 0.01))
STEP_SCORES = (-0.21942669, -0.22467531)  # old, theta
STEP_DIVERGENCE, STEP_MEAN_KL, STEP_GUARD = 3.39851e-5, 2.82382e-6, 0.99795901
