"""Distillation (Busbridge et al. 2025): which teacher, and where a student trained alone wins."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

import fits
from fits.curve import Curve
from reproduced.drawing import count, label, note, shades
from reproduced.entry import Drawn, Entry
from scaling.plots import BLACK, _axes, _styled

DISTILLED, ALONE = "busbridge2025-distillation", "busbridge2025-supervised"
STUDENTS = (2e8, 1e9, 3e9, 7e9)
TEACHERS = (5.46e8, 1.82e9, 4e9, 1.26e10)
PER_PARAM = 20.0  # tokens a parameter of students and teachers
STUDENT = 1e9


@_styled
def distillation_figure(draws: int) -> Drawn:
    """Student loss against the teacher's, and what distillation gains over training alone as the student's tokens grow."""
    distilled, alone = fits.load(DISTILLED), fits.load(ALONE)
    figure, (left, right) = _axes(11.0, 4.8, columns=2)
    parts = [_by_teacher(left, distilled, alone), _by_tokens(right, distilled, alone)]
    return figure, pd.concat(parts, ignore_index=True)


def _by_teacher(axis: Axes, distilled: Curve, alone: Curve) -> pd.DataFrame:
    teachers, kept = np.linspace(1.6, 3.2, 161), []
    for size, shade in zip(STUDENTS, shades(len(STUDENTS)), strict=True):
        tokens = PER_PARAM * size
        loss = np.asarray(distilled.evaluate(non_embedding_params=np.full(161, size), tokens=np.full(161, tokens), teacher_loss=teachers))
        itself = float(alone.evaluate(non_embedding_params=size, tokens=tokens))
        axis.plot(teachers, loss, color=shade, linewidth=2)
        axis.plot([1.6, 3.2], [itself, itself], ":", color=shade, linewidth=1.2)
        best = int(loss.argmin())
        axis.plot(teachers[best], loss[best], "D", color=shade, markersize=6, zorder=4, clip_on=False)
        label(axis, f"{count(size)}", (teachers[-1], itself), shade)
        kept.append(
            pd.DataFrame(
                {
                    "what": "by teacher",
                    "student_params": size,
                    "student_tokens": tokens,
                    "teacher_loss": teachers,
                    "loss": loss,
                    "alone": itself,
                }
            )
        )
    axis.plot([1.8, 3.2], [1.8, 3.2], color="#777777", linewidth=1, zorder=1)
    label(axis, "as good as the teacher", (2.5, 2.5), "#777777", shift=(8, -6))
    note(axis, f"students see {PER_PARAM:g} tokens a parameter;\ndotted: trained alone; diamonds: best teacher", "upper left")
    axis.set(xlim=(1.6, 3.35), ylim=(1.8, 3.1), xlabel="teacher's loss (nats per token)", ylabel="student's loss (nats per token)")
    axis.set_title("A better teacher helps up to a point")
    return pd.concat(kept)


def _by_tokens(axis: Axes, distilled: Curve, alone: Curve) -> pd.DataFrame:
    tokens, kept = np.geomspace(4e9, 8e12, 121), []
    itself = np.asarray(alone.evaluate(non_embedding_params=np.full(121, STUDENT), tokens=tokens))
    for size, shade in zip(TEACHERS, shades(len(TEACHERS)), strict=True):
        teacher = float(alone.evaluate(non_embedding_params=size, tokens=PER_PARAM * size))
        loss = np.asarray(distilled.evaluate(non_embedding_params=np.full(121, STUDENT), tokens=tokens, teacher_loss=np.full(121, teacher)))
        gain = itself - loss
        axis.plot(tokens, gain, color=shade, linewidth=2)
        cross = np.flatnonzero((gain[:-1] > 0) & (gain[1:] <= 0))
        if len(cross):
            at = float(np.interp(0, [-gain[cross[0]], -gain[cross[0] + 1]], np.log(tokens[cross[0] : cross[0] + 2])))
            axis.plot(np.exp(at), 0, "D", color=shade, markersize=6, zorder=4)
        label(axis, f"{count(size)}, {teacher:.2f}", (tokens[0], gain[0]), shade, shift=(-4, 0), ha="right")
        kept.append(
            pd.DataFrame(
                {
                    "what": "by tokens",
                    "student_params": STUDENT,
                    "student_tokens": tokens,
                    "teacher_params": size,
                    "teacher_loss": teacher,
                    "loss": loss,
                    "alone": itself,
                }
            )
        )
    axis.axhline(0, color=BLACK, linewidth=1)
    axis.axvline(distilled.range["tokens"][1], color=BLACK, linewidth=0.8, linestyle=":")
    note(
        axis,
        f"student of {count(STUDENT)}; labels: teacher's size and loss\nbelow zero the student alone is better\ndotted: most tokens of the fit",
        "lower left",
    )
    axis.set(xscale="log", xlim=(3e8, 8e12), xlabel="student's tokens", ylabel="loss alone - loss distilled (nats per token)")
    axis.set_title("With enough tokens training alone wins")
    return pd.concat(kept)


FIGURES = (Entry("distillation", "student loss by teacher, and where training alone wins", distillation_figure, curves=(DISTILLED, ALONE)),)
