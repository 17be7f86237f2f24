"""The PiMAE part of ``docs/reference/results.md``, from the JSON of every run; used by ``benchmarks.tables``."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.tables_med2e3 import spread, table
from crossdim.metrics.resampling import Estimate, estimate, patient_weights

Run = dict[str, Any]
RESAMPLES = 1000
"""Of scenes, behind an interval."""
PLANNED_SEEDS = 3
LOSSES = {"points": "points (Chamfer, cm²)", "image": "image (MSE)", "cross_modal": "cross-modal (MSE)"}
SCALES = {"points": 1e4, "image": 1.0, "cross_modal": 1.0}
SOURCES = {"room": "synthetic rooms", "osd": "OSD, real Kinect scenes"}

PRETRAINING = """
## PiMAE's pre-training in a reduced configuration

```
python -m benchmarks.pimae --data "$CROSSDIM_DATA" && python -m benchmarks.tables
```

240 synthetic rooms (rendered depth with sensor noise and self-occlusion) and the 45 scenes of the Object Segmentation
Database, split by scene: {training} to train on, {test} to measure on. The tiny preset, {steps} steps of {batch}
scenes; {seconds:.0f} s a run on average, one thread, on a machine that was doing other things. `complement` shows the
patches that hidden groups of points fall into (the paper's), `uniform` hides them too, `independent` draws both masks
apart (what the released code does). `--held-out MANIFEST` evaluates on other scenes.

Losses of the hidden parts of test scenes, every arm under every masking, mean over scenes and seeds (± standard
deviation between seeds). `untrained` is the same model with random weights; `constant` looks at nothing (points: the
k-means centres of all training groups; image: the mean of its visible patches; cross-modal: zeros). Cross-modal targets
are features of each model's own image decoder, so that column does not compare between models.

{losses}

What one kind tells of the other: the loss when the other modality is another scene's, minus the true one, under
`complement` masks (positive: the true one helps; 95 % interval over scenes, for each seed). {helps}

{shuffled}

Difference to `complement` with the same seed under the same masks, paired bootstrap over test scenes, in the unit of
the table above. {verdict}

{differences}

A linear probe of frozen features (logistic regression, kind of room, five classes, {rooms} test rooms):

{probe}
{cut}"""

COST = """
## What a step of PiMAE costs, and sampling

```
export OMP_NUM_THREADS=1
python -m benchmarks.pimae_cost && python -m benchmarks.points && python -m benchmarks.tables
```

Forward and backward at the paper's size, batch {batch}, {threads} thread ({instructions}), against a straightforward
implementation in `benchmarks/` (convolutions on every group, enlarged feature map, plain farthest-point sampling) with
the same weights, losses and gradients (relative error {error:.0e} in float64). `as released` has all of the authors'
settings, `default` is ours: hidden groups are not embedded while training. Medians of {repeats} turns; load of the
machine before: {load:.1f}.

{steps}

The aim for `default` is 0.6 of the straightforward step at most. Milliseconds by part:

{parts}

Farthest-point sampling of 8 clouds, 20,000 → 2,048 points: {fps:.1f} ms, {fps_over:.2f} of torch-quickfps (aim: at most
1.2), without numba {numpy:.0f} ms, naive torch {torch:,.0f} ms. torch-quickfps is not used, because it breaks ties in
another order: of {clouds} clouds, {metre} differ in float32, {milli} in whole millimetres, {centi} in whole
centimetres.
"""


def pimae(folder: Path) -> str:
    """Return the section; parts without runs are left out.

    Args:
        folder: With ``pretraining/*.json``, ``cost.json`` and ``points.json``.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "pretraining").glob("*.json"))]
    page = _pretraining(runs) if runs else ""
    cost, points = folder / "cost.json", folder / "points.json"
    if cost.is_file() and points.is_file():
        page += _cost(*(json.loads(path.read_text(encoding="utf-8")) for path in (cost, points)))
    return page


def _arms(runs: Sequence[Run]) -> list[str]:
    found = {run["arm"] for run in runs}
    return [arm for arm in ("complement", "uniform", "independent") if arm in found]


def _values(scenes: dict[str, Any], loss: str, source: str, which: str | None = "own") -> np.ndarray:
    """Return one loss of each scene of a source, in the table's unit."""
    chosen = (losses if which is None else losses[which] for name, losses in scenes.items() if name.startswith(source))
    return SCALES[loss] * np.array([losses[loss] for losses in chosen])


def _losses(runs: Sequence[Run]) -> str:
    arms, rows = _arms(runs), []
    first = [run for run in runs if run["arm"] == arms[0]]
    for source, title in SOURCES.items():
        for masking in arms:
            for arm in arms:
                own = [run for run in runs if run["arm"] == arm]
                cells = [
                    spread([float(_values(run["losses"][masking], loss, source).mean()) for run in own])
                    for loss in LOSSES
                ]
                rows.append([title, masking, arm, *cells])
            for name, which in (("untrained", "own"), ("constant", None)):
                cells = [
                    spread([float(_values(run[name][masking], loss, source, which).mean()) for run in first])
                    for loss in LOSSES
                ]
                rows.append([title, masking, name, *cells])
    return table(["scenes", "masks of the test", "trained with", *LOSSES.values()], rows)


def _interval(difference: np.ndarray, seed: int) -> Estimate:
    """Return the mean of differences of scenes with its interval, by resampling the scenes."""
    blocks = list(patient_weights(np.arange(len(difference)), RESAMPLES, seed))
    resampled = np.concatenate([weights @ difference / len(difference) for weights in blocks])
    return estimate(float(difference.mean()), resampled, len(difference) > 1)


def shown(e: Estimate) -> str:
    """Return ``+0.012 [-0.003, +0.027]``.

    Args:
        e: A difference.
    """
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"


def _shuffled(runs: Sequence[Run]) -> tuple[str, str]:
    rows, clear = [], dict.fromkeys(("points", "image"), 0)
    for run in runs:
        scenes = run["losses"]["complement"]
        for source, title in SOURCES.items():
            found = {
                loss: _interval(_values(scenes, loss, source, "shuffled") - _values(scenes, loss, source), run["seed"])
                for loss in clear
            }
            for loss, e in found.items():
                clear[loss] += e.low > 0
            rows.append([run["arm"], str(run["seed"]), title, *(shown(e) for e in found.values())])
    words = (
        f"The interval lies above zero in {clear['points']} of {len(rows)} rows for the points and in {clear['image']} "
        "for the image."
    )
    return table(["trained with", "seed", "scenes", *(LOSSES[loss] for loss in clear)], rows), words


def _differences(runs: Sequence[Run]) -> tuple[str, str]:
    by_key = {(run["arm"], run["seed"]): run for run in runs}
    rows, outside = [], 0
    for (arm, seed), run in by_key.items():
        base = by_key.get(("complement", seed))
        if arm == "complement" or base is None:
            continue
        for source, title in SOURCES.items():
            found = []
            for loss in ("points", "image"):
                pair = [_values(each["losses"]["complement"], loss, source) for each in (run, base)]
                found.append(_interval(pair[0] - pair[1], seed))
            outside += sum(e.low > 0 or e.high < 0 for e in found)
            rows.append([arm, str(seed), title, *(shown(e) for e in found)])
    verdict = f"{outside} of {2 * len(rows)} intervals exclude zero" + (
        ": the differences are **noise**." if outside == 0 else "; look whether the seeds agree in sign."
    )
    return table(["trained with", "seed", "scenes", LOSSES["points"], LOSSES["image"]], rows), verdict


def _probe(runs: Sequence[Run]) -> str:
    rows = []
    for arm in _arms(runs):
        own = [run["probe"] for run in runs if run["arm"] == arm]
        rows.append([arm, spread([probe["trained"]["accuracy"] for probe in own])])
    untrained = {run["seed"]: run["probe"]["untrained"]["accuracy"] for run in runs}
    rows.append(["untrained", spread(list(untrained.values()))])
    rows.append(["chance", f"{runs[0]['probe']['trained']['chance']:.3f}"])
    return table(["encoder", "accuracy"], rows)


def _pretraining(runs: Sequence[Run]) -> str:
    first = runs[0]
    shuffled, helps = _shuffled(runs)
    differences, verdict = _differences(runs)
    seeds = {arm: sum(run["arm"] == arm for run in runs) for arm in _arms(runs)}
    short = [f"{arm}: {count}" for arm, count in seeds.items() if count < PLANNED_SEEDS]
    return PRETRAINING.format(
        training=first["training_records"],
        test=first["test_records"],
        steps=first["config"]["optimisation"]["steps"],
        batch=first["config"]["batch"]["scenes"],
        seconds=mean(run["seconds"] for run in runs),
        losses=_losses(runs),
        helps=helps,
        shuffled=shuffled,
        verdict=verdict,
        differences=differences,
        rooms=len(first["probe"]["trained"]["labels"]),
        probe=_probe(runs),
        cut=f"\nFewer seeds than the {PLANNED_SEEDS} planned: {', '.join(short)}.\n" if short else "",
    )


def _cost(cost: Run, points: Run) -> str:
    ratios = {"plain": 1.0, "same": cost["same_over_plain"], "ours": cost["ours_over_plain"]}
    names = {"plain": "straightforward", "same": "as released", "ours": "default"}
    steps = [
        [title, f"{cost['step_ms'][name]:,.0f}", f"{ratios[name]:.2f}",
         f"{cost['gemm_share'][name]:.2f}"]
        for name, title in names.items()
    ]  # fmt: skip
    parts = list(cost["breakdown_ms"]["plain"])
    rows = [[names[arm], *(f"{cost['breakdown_ms'][arm][part]:,.0f}" for part in parts)] for arm in ("plain", "ours")]
    sampling, ties = points["farthest_points_8_x_20000_to_2048"], points["ties_of_torch_quickfps"]
    return COST.format(
        batch=cost["batch"],
        threads=cost["threads"],
        instructions=cost["instructions"],
        error=max(cost["relative_errors"].values()),
        repeats=cost["repeats"],
        load=cost["load_before"][0],
        steps=table(
            ["step", "ms", "of straightforward", f"of the GEMM rate ({cost['gemm_gflops']:.0f} GFLOP/s)"], steps
        ),
        parts=table(["step", *parts], rows),
        fps=sampling["ms"]["numba"],
        fps_over=sampling["over_the_best_tree"],
        numpy=sampling["ms"]["numpy"],
        torch=sampling["torch_ms"],
        clouds=ties["clouds"],
        metre=ties["differ"]["float32"],
        milli=ties["differ"]["millimetres"],
        centi=ties["differ"]["centimetres"],
    )
