"""The Med-2E3 part of ``docs/reference/results.md``, from the JSON of every run; used by ``benchmarks.tables``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from crossdim.metrics.resampling import Estimate, estimate, patient_groups, patient_weights

Run = dict[str, Any]
RESAMPLES = 1000
"""Of subjects, behind an interval between two arms."""
PLANNED_SEEDS = 3
NO_GAIN = "No seed differs from blind beyond noise: so small a model learns nothing measurable from so few images."

CLOSED = """
### {title}

```
python -m benchmarks.med2e3 --data "$CROSSDIM_DATA" --sets {name} && python -m benchmarks.tables
```

{about} {questions} closed test questions about {volumes} volumes of {patients} subjects who are in no other part;
training on {training} volumes, {steps} steps.

Closed accuracy over all questions (95 % interval by subject). `blind` says what was true most often in training to the
same question; `shuffled` is the model shown another subject's volume.

{accuracy}

By type of question, mean over seeds:

{types}

Slice localisation: does the score rank the slices that show what is asked about above the others (AUROC, AP), and
does the best slice show it (pointing)? `uniform` gives all slices the same score; `prior` knows where answers usually
were in training, whatever the question.

{slices}

By type, AUROC, mean over seeds:

{slice_types}

Difference to `tgis` with the same seed, closed accuracy, paired bootstrap over subjects:

{differences}
{cut}"""

OPEN = """
### {title}

```
python -m benchmarks.med2e3 --data "$CROSSDIM_DATA" --sets {name} && python -m benchmarks.tables
```

{about}

{rows}
"""

COST = """
### What a question costs, in real sizes

```
python -m benchmarks.med2e3_cost && python -m benchmarks.tables
```

Random weights of the released sizes (SigLIP-large on 32 slices of 256 × 256, M3D-CLIP's ViT-B, connectors of width
3,072, BERT-base), {threads} threads of a processor with {capability}, without the language model, which costs the same
each time. `anew` computes all for every question as the released code does, in float32; `first` is ours for the first
question about a volume, encoders in bf16; `next` is ours for each further one. Medians of {repeats} turns.

{rows}

The first question takes {first:.2f} of the time (aim: at most 0.6), each further one is {next:,.0f} times cheaper
(aim: at least 100). Largest error over largest value against `anew`: {z:.1e} (tokens for the language model) and
{s:.1e} (slice scores) in bf16; {ze:.1e} and {se:.1e} in float32, where only the order of operations differs.
"""

ABOUT = {
    "hippocampus": (
        "Hippocampus, real MR",
        "200 T1 crops of the Medical Segmentation Decathlon (Task04), eight random coronal fields of view each; which "
        "part is visible, which is larger, how many. Each volume is stretched to 16 slices of 32 × 32.",
    ),
    "heads": (
        "Heads, synthesised",
        "15 label maps of SynthSeg, eight random contrasts and four random axial fields of view each, half of them of "
        "one side; which structure is visible, on which side, which is larger. Each volume is stretched to 24 slices "
        "of 48 × 48. Few subjects: the intervals rest on {patients}.",
    ),
    "reports": (
        "Reports on the hippocampus",
        "The same crops; the model writes a report of three to five findings (what is visible, what is larger, volumes "
        "in mL) on volumes of subjects it has never seen. Findings are sentences; numbers count as right within 15 %. "
        "The contract stretches volumes, so that millilitres cannot be known: this bounds recall. `blind` is the most "
        "frequent training report.",
    ),
    "vqa_rad": (
        "VQA-RAD (2D)",
        "Closed questions of VQA-RAD, split by image (never by question), everything from scratch on {training} "
        "training images, no pre-training of any kind.",
    ),
}


def med2e3(folder: Path, cost: Path) -> str:
    """Return the section; parts without runs are left out.

    Args:
        folder: Folders of JSONs, one a set.
        cost: The JSON of the cost.
    """
    parts = ["\n## Med-2E3 in reduced configurations\n", HEAD]
    for name, build in BUILDERS.items():
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / name).glob("*.json"))]
        if runs:
            parts.append(build(name, runs))
    if cost.is_file():
        parts.append(_cost(json.loads(cost.read_text(encoding="utf-8"))))
    return "".join(parts)


HEAD = """
Towers, question encoder and language model are small (about a million parameters together) and trained here, so these
numbers say how the method behaves and nothing about the published sizes. Arms: `tgis` is Med-2E3 with random towers,
trained on answers alone (3D tower frozen, as published; temperature 1, as in the paper); `tgis-slices` is also told
which slices show what is asked about; `uniform` averages the slices; `2d-only` has no 3D tokens; `3d-only` has no
slices, and its 3D tower learns; `tgis-pretrained` starts from towers that were pre-trained without labels on the
training volumes and their slices (Uni4Eye, 400 steps). All else is equal.

Aims that were set beforehand: closed accuracy of 0.95 where blind is at chance; slice AUROC of 0.98 with slice
supervision and of 0.85 from answers alone. Seconds: one thread, on a machine that was doing other things.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: Names of the columns.
        rows: Cells.
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def interval(value: dict[str, float | None] | None, digits: int = 3) -> str:
    """Return ``0.712 [0.690, 0.735]``, or a dash where there is no number.

    Args:
        value: ``value``, ``low`` and ``high``.
        digits: After the point.
    """
    if value is None or value["value"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def spread(values: Sequence[float | None]) -> str:
    """Return mean ± standard deviation between seeds.

    Args:
        values: One for each seed.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.3f} ± {stdev(known):.3f}" if len(known) > 1 else f"{known[0]:.3f}"


def _arms(runs: Sequence[Run]) -> list[str]:
    found = {run["arm"] for run in runs}
    order = ("tgis", "tgis-slices", "uniform", "2d-only", "3d-only", "tgis-pretrained")
    return [arm for arm in order if arm in found]


def _closed_of(run: Run) -> dict[str, Any]:
    return run["report"]["answers"]["forms"]["closed"]


def _over(runs: Sequence[Run], arm: str, value: Callable[[Run], float | None]) -> str:
    return spread([value(run) for run in runs if run["arm"] == arm])


def _accuracy(run: Run, who: str) -> float | None:
    return _closed_of(run)["predictors"][who]["micro"]["accuracy"]["value"]


def _typed(types: Sequence[dict[str, Any]], name: str, metric: str) -> float | None:
    return next((each["metrics"][metric]["value"] for each in types if each["name"] == name), None)


def _closed(name: str, runs: Sequence[Run]) -> str:
    first = runs[0]
    form = _closed_of(first)
    rows = []
    for arm in _arms(runs):
        for run in (each for each in runs if each["arm"] == arm):
            said = _closed_of(run)["predictors"]
            cells = [interval(said[who]["micro"]["accuracy"]) for who in ("model", "blind", "shuffled")]
            rows.append([arm, str(run["seed"]), *cells, f"{run['seconds']:.0f}"])
        means = [_over(runs, arm, lambda run, who=who: _accuracy(run, who)) for who in ("model", "blind", "shuffled")]
        rows.append([f"**{arm}**", "mean", *(f"**{value}**" for value in means), ""])
    kinds = [each["name"] for each in form["predictors"]["model"]["types"]]
    types = [
        [arm, *(_over(runs, arm, lambda run, kind=kind: _typed(_closed_of(run)["predictors"]["model"]["types"], kind,
                                                                "accuracy")) for kind in kinds)]
        for arm in _arms(runs)
    ]  # fmt: skip
    title, about = ABOUT[name]
    patients = form["patients"]
    return CLOSED.format(
        title=title,
        name=name,
        about=about.format(patients=patients),
        questions=form["questions"],
        volumes=first["test_records"],
        patients=patients,
        training=first["training_records"],
        steps=first["config"]["optimisation"]["steps"],
        accuracy=table(["arm", "seed", "model", "blind", "shuffled", "seconds"], rows),
        types=table(["arm", *kinds], types),
        slices=_slices(runs),
        slice_types=_slice_types(runs),
        differences=_differences(runs),
        cut=_cut(runs),
    )


def _cut(runs: Sequence[Run]) -> str:
    """Return a note on arms that were run with fewer seeds than planned; empty where none was."""
    seeds = {arm: sum(run["arm"] == arm for run in runs) for arm in _arms(runs)}
    few = [f"`{arm}` ({count})" for arm, count in seeds.items() if count < PLANNED_SEEDS]
    if not few:
        return ""
    return f"\nCut for time: {PLANNED_SEEDS} seeds were planned, and fewer were run of {', '.join(few)}.\n"


def _located(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run["report"]["slices"] is not None]


def _slices(runs: Sequence[Run]) -> str:
    metrics = {"auroc": "AUROC", "average_precision": "AP", "pointing": "pointing"}
    located = _located(runs)
    rows = []
    for arm in _arms(located):
        of_arm = [run for run in located if run["arm"] == arm]
        for run in of_arm:
            found = run["report"]["slices"]["scorers"]["model"]["micro"]
            rows.append([arm, str(run["seed"]), *(interval(found[metric]) for metric in metrics)])
    for who in ("uniform", "prior"):
        scorers = located[0]["report"]["slices"]["scorers"]
        if who in scorers:
            rows.append([f"({who})", "", *(interval(scorers[who]["micro"][metric]) for metric in metrics)])
    return table(["arm", "seed", *metrics.values()], rows)


def _slice_types(runs: Sequence[Run]) -> str:
    located = _located(runs)

    def types(run: Run, who: str = "model") -> list[dict[str, Any]]:
        return run["report"]["slices"]["scorers"][who]["types"]

    kinds = [each["name"] for each in types(located[0])]
    rows = [
        [arm, *(_over(located, arm, lambda run, kind=kind: _typed(types(run), kind, "auroc")) for kind in kinds)]
        for arm in _arms(located)
    ]
    if "prior" in located[0]["report"]["slices"]["scorers"]:
        values = (_typed(types(located[0], "prior"), kind, "auroc") for kind in kinds)
        rows.append(["(prior)", *("–" if value is None else f"{value:.3f}" for value in values)])
    return table(["arm", *kinds], rows)


def _differences(runs: Sequence[Run]) -> str:
    by_key = {(run["arm"], run["seed"]): run for run in runs}
    rows = []
    for arm in _arms(runs):
        pairs = [
            (by_key[arm, seed], by_key["tgis", seed]) for of, seed in by_key if of == arm and ("tgis", seed) in by_key
        ]
        if arm == "tgis" or not pairs:
            continue
        found = [difference(ours, theirs) for ours, theirs in pairs]
        beyond = sum(each.low > 0 or each.high < 0 for each in found)
        cells = "; ".join(f"{each.value:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" for each in found)
        verdict = "noise" if not beyond else f"beyond noise in {beyond} of {len(found)}"
        rows.append([f"{arm} − tgis", cells, verdict])
    return table(["difference", "by seed", "verdict"], rows) if rows else "Only one arm was run."


def difference(ours: Run, theirs: Run) -> Estimate:
    """Return the difference of two arms' closed accuracy on the same questions, resampled by patient.

    Args:
        ours: A run.
        theirs: Another one of the same set.
    """
    ids = [name for name in ours["predictions"] if ours["predictions"][name]["prediction"] is not None]
    right = [
        np.array([float(run["predictions"][name]["prediction"] == run["predictions"][name]["answer"]) for name in ids])
        for run in (ours, theirs)
    ]
    gain = right[0] - right[1]
    groups = patient_groups([ours["predictions"][name]["patient_id"] for name in ids], len(ids), RESAMPLES)
    weights = np.concatenate(list(patient_weights(groups, RESAMPLES, ours["seed"])))
    return estimate(float(gain.mean()), (weights @ gain) / weights.sum(axis=1), int(groups.max()) > 0)


def _reports(name: str, runs: Sequence[Run]) -> str:
    metrics = {"finding_f1": "finding F1", "finding_precision": "precision", "finding_recall": "recall",
               "bleu1": "BLEU-1", "rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "meteor": "METEOR"}  # fmt: skip
    forms = {run["seed"]: run["report"]["answers"]["forms"]["report"] for run in runs}
    shown = {
        key: word for key, word in metrics.items() if key in next(iter(forms.values()))["predictors"]["model"]["micro"]
    }
    rows = [
        [who, str(seed), *(interval(form["predictors"][who]["micro"][metric]) for metric in shown)]
        for who in ("model", "blind", "shuffled")
        for seed, form in forms.items()
        if who in form["predictors"]
    ]
    title, about = ABOUT[name]
    found = table(["reports of", "seed", *shown.values()], rows)
    note = "" if "meteor" in shown else "\n\nMETEOR is missing: WordNet was not there."
    return OPEN.format(title=title, name=name, about=about, rows=found + note)


def _images(name: str, runs: Sequence[Run]) -> str:
    rows, gains = [], []
    for run in runs:
        form = _closed_of(run)
        said = [interval(form["predictors"][who]["micro"]["accuracy"]) for who in ("model", "blind", "shuffled")]
        gains.append(form["differences"]["blind"]["micro"]["accuracy"])
        rows.append([str(run["seed"]), *said, interval(gains[-1])])
    beyond = sum(gain["low"] > 0 or gain["high"] < 0 for gain in gains)
    verdict = f"The difference to blind is beyond noise in {beyond} of {len(gains)} seeds." if beyond else NO_GAIN
    title, about = ABOUT[name]
    found = table(["seed", "model", "blind", "shuffled", "model − blind"], rows)
    text = about.format(training=runs[0]["training_records"])
    return OPEN.format(title=title, name=name, about=text, rows=f"{found}\n\n{verdict}")


def _cost(found: dict[str, Any]) -> str:
    rows = [[name, f"{value:.3f}"] for name, value in found["median_seconds"].items()]
    return COST.format(
        threads=found["threads"],
        capability=found["bf16_instructions"],
        repeats=len(found["seconds"]["anew"]),
        rows=table(["way", "seconds"], rows),
        first=found["first_over_anew"],
        next=found["anew_over_next"],
        z=found["error_of_bf16"]["z_I"],
        s=found["error_of_bf16"]["scores"],
        ze=found["error_of_the_algebra_in_float32"]["z_I"],
        se=found["error_of_the_algebra_in_float32"]["scores"],
    )


BUILDERS: dict[str, Callable[[str, Sequence[Run]], str]] = {
    "hippocampus": _closed,
    "heads": _closed,
    "reports": _reports,
    "vqa_rad": _images,
}
