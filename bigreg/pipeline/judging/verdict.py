"""The verdict on a finished run, and where it is kept: as an attribute of the run, so that asking for it is quick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import storage
from ...quality.confidence import said
from ...quality.evaluation import Evaluation, read_evaluation
from ...quality.metrics import RegistrationError
from ...quality.verdict import Outcome, Verdict, judge
from ..context import starts
from ..context.context import Context
from ..store.store import EVALUATION
from ..tasks.fields import field_grids
from . import confidence, likeness, pairs
from .figures import Row, channels_off, figures
from .status import VERDICT, unmatched_share


def outcome_of(context: Context, evaluation: Evaluation | None = None, rows: Sequence[Row] | None = None) -> Outcome:
    """All that the verdict on a finished run goes by.

    evaluation   in place of the one that it keeps; rows: its `figures`, where they are known
    """
    if evaluation is None:
        evaluation = read_evaluation(context.store.path(EVALUATION))
    value = {(group, name): v for group, name, v, _, _ in (figures(context) if rows is None else rows)}
    start = storage.read_attributes(context.store.path("affine"))["bigreg"].get("details", {})
    # A start that a person has looked at and accepted is no guess.
    sure = None if starts.ACCEPTED in context.attributes else start.get("confidence")
    known = context.attributes.get("evaluation", {})
    samples = sum(float(np.prod(field_grids(context, d)[0].shape)) for d in ("fixed_to_moving", "moving_to_fixed"))
    return Outcome(
        agreement=likeness.read(context),
        folds=int(value["regularity", "folds, fixed_to_moving"] + value["regularity", "folds, moving_to_fixed"]),
        samples=int(samples),
        inverse_error=value["inverse error", "99.9th percentile"],
        blocks=int(sum(value["blocks", k] for k in ("done", "blank", "failed"))),
        blocks_failed=int(value["blocks", "failed"]),
        seconds=value["time and memory", "all stages"],
        off=value.get(("confidence", "textured tiles off"), float("nan")) / 100,
        large=said(confidence.threshold_um(context)),
        risk_calibrated=confidence.calibrated(context),
        confidence=float("nan") if sure is None else float(sure),
        warnings=tuple(start.get("warnings", ())),
        landmarks=pairs.outcomes(context, evaluation),
        unmatched=unmatched_share(context.store),
        channels_off=tuple(channels_off(context)),
        **{f"error_{k}": RegistrationError(**known[k]) for k in ("before", "affine", "after") if k in known},
    )


def judged(context: Context, evaluation: Evaluation | None = None) -> Verdict:
    """The verdict on a finished run; `evaluation`: in place of the one that it keeps."""
    return judge(outcome_of(context, evaluation))


def keep(context: Context) -> Verdict:
    """Judge a run anew and keep the verdict in it. Only the client does so."""
    verdict = judged(context)
    context.store.update(**{VERDICT: verdict.to_json()})
    return verdict
