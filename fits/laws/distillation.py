"""Distillation: the loss of a student from its size, its tokens and the loss of its teacher, and what it costs to train one.

The constants without a suffix are those of the supervised law, which says what the student would reach alone; they are fixed in a fit.
"""

from __future__ import annotations

from typing import Any

from fits.laws import maths
from fits.laws.base import Constants, Inputs, Law, Parameter, amplitude, exponent, free, irreducible


def _power_sum(c: Constants, x: Inputs, suffix: str) -> Any:
    size = c["A" + suffix] * x.power("non_embedding_params", -c["alpha" + suffix])
    return maths.exp(c["gamma" + suffix] * maths.log(size + c["B" + suffix] * x.power("tokens", -c["beta" + suffix])))


def _student(c: Constants, x: Inputs) -> Any:
    alone = c["E"] + _power_sum(c, x, "")
    log_teacher = x.log("teacher_loss")
    # log(1 + (L_T / (L_alone d1))^(1 / f1)), which would overflow as a power.
    bend = maths.logaddexp(0.0, (log_teacher - maths.log(alone * c["d1"])) / c["f1"])
    return x["teacher_loss"] + maths.exp(-c["c0"] * log_teacher - c["c1"] * c["f1"] * bend) * _power_sum(c, x, "_student")


def training_flops(
    student_params: float,
    student_tokens: float,
    teacher_params: float = 0.0,
    teacher_tokens: float = 0.0,
    *,
    logits: bool = True,
    pretraining: bool = False,
) -> float:
    """FLOP of a distillation: the student's training, the teacher's forward passes (`logits`) and its own training (`pretraining`).

    Each is 2 FLOP a parameter and token forward and twice that backward; the attention terms of the paper's count are left out.
    """
    teacher = logits * student_tokens + pretraining * 3 * teacher_tokens
    return 2 * (3 * student_params * student_tokens + teacher_params * teacher)


DISTILLATION = Law(
    name="distillation",
    formula=(
        "teacher_loss + teacher_loss^-c0 * (1 + (teacher_loss / (d1 * alone))^(1/f1))^(-c1 f1)"
        " * (A_student * non_embedding_params^-alpha_student + B_student * tokens^-beta_student)^gamma_student,"
        " alone = E + (A * non_embedding_params^-alpha + B * tokens^-beta)^gamma"
    ),
    function=_student,
    parameters=(
        irreducible("E"),
        amplitude("A"),
        amplitude("B"),
        exponent("alpha"),
        exponent("beta"),
        exponent("gamma", (0.2, 1.0)),
        amplitude("A_student"),
        amplitude("B_student"),
        exponent("alpha_student"),
        exponent("beta_student"),
        exponent("gamma_student", (0.2, 1.0)),
        free("c0", (0.0, 5.0), low=-50, high=50),
        amplitude("c1", (1.0, 1e3)),
        Parameter("f1", low=5e-3, high=10.0, log=True, starts=(0.03, 0.3)),
        Parameter("d1", low=1e-2, high=1e2, log=True, starts=(0.8, 2.0)),
    ),
    inputs=("non_embedding_params", "tokens", "teacher_loss"),
    size="non_embedding_params",
    source="Busbridge et al. 2025, Distillation Scaling Laws, arXiv 2502.08606",
)

LAWS = (DISTILLATION,)
