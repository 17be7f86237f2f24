"""The detection part of ``docs/reference/results.md``, from the JSON of every run; used by ``benchmarks.tables``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.detection import ARMS, ARMS_OF, FOLDS, MARGIN_M, TABLE_TOPS, WORLDS
from benchmarks.tables_med2e3 import interval, spread, table
from benchmarks.tables_pimae import PLANNED_SEEDS, RESAMPLES, Run, shown
from crossdim.errors import RecipeError
from crossdim.metrics.detection3d import TrueBoxes, compare_detections
from crossdim.metrics.detection_protocol import Protocol, RawBoxes
from crossdim.metrics.resampling import Estimate
from crossdim.training.detection_evaluation import ScenePrediction, measure
from crossdim.training.recipe_detect import DetectRecipe

BASELINE = "clusters"
FITTED = ", fitted"
"""Behind an arm's name: the same detectors, their boxes fitted to points."""
AIMS = {"AP25": 0.85, "AP50": 0.55}
"""Of OSD, set beforehand."""
SCORES = {
    "AP25": (0, "mean_average_precision", "average_precision"),
    "AP50": (1, "mean_average_precision", "average_precision"),
    "AR25": (0, "average_recall", "recall"),
    "AR50": (1, "average_recall", "recall"),
}
"""Place of the IoU in a report, and the score's names over all classes and of one."""
THRESHOLDS = {"AP25": 0.25, "AP50": 0.5}
QUESTIONS = (
    ("complement", "scratch"),
    ("uniform", "complement"),
    ("independent", "complement"),
    ("low rate", "complement"),
    ("low rate", "scratch"),
    ("scratch with image", "scratch"),
    ("complement with image", "complement"),
    ("labelled synthetic", "complement"),
    (f"complement{FITTED}", f"scratch{FITTED}"),
    (f"scratch{FITTED}", "scratch"),
    (f"complement{FITTED}", "complement"),
    (f"labelled synthetic{FITTED}", "labelled synthetic"),
    (f"labelled synthetic{FITTED}", f"scratch{FITTED}"),
)
"""Arms whose difference is asked for: pre-training, the masks, the image, labels of synthetic scenes, fitting."""
OWN = ("seed", "transfer")
"""Keys of a recipe in which runs of one world may differ, beside ``model.image``."""

HEAD = """
## Boxes in scenes, in a reduced configuration

```
export OMP_NUM_THREADS=1
python -m benchmarks.detection --data "$CROSSDIM_DATA" && python -m benchmarks.tables
```

What pre-training, the masks, and the image are worth to a detector. Arms of one world have the same architecture,
number of layers, preprocessing, labelled scenes, steps and seeds, and differ in where the weights begin. `scratch`
begins at random. `complement`, `uniform` and `independent` begin with a PiMAE that was pre-trained with these masks and
take over everything that has a place in the detector; none of the pre-trainings sees a labelled box. `low rate` is
`complement`, pre-trained at a tenth of the learning rate. `with image` looks at the image too, through PiMAE's image
branch and joint encoder; the others look at points alone.

AP and AR at an IoU of 0.25 and 0.5 follow the protocol of VoteNet and 3DETR. Intervals: 95 %, {resamples:,} resamples
of test scenes; they do not hold what another seed, or other training scenes, would change. Seconds: of detection alone,
without pre-training, on a machine that was doing other things. `--held-out MANIFEST` measures on other scenes.

How this was chosen: region, sizes, weights of the loss and what queries begin with were tried on the first fold of OSD
(nine scenes, a prototype, from random weights) and on the test rooms: both worlds are a little flattering, to all arms
alike. The table tops were drawn by the code of commit d6c2cc6; later ones have other cameras and tables.
"""

TABLES = """
### Things on tables: the Object Segmentation Database

The {test} real Kinect scenes of OSD ({boxes} things, one class) by cross-validation with {folds} folds, stratified by
arrangement: every scene is predicted once, by a detector that was trained on {training} others and has not seen it. The
scores of the {folds} detectors are ranked together, which costs AP where one of them is more certain than another.
Pre-training sees {table_tops} synthetic table tops for {pretraining} steps and no scene of OSD; detection takes {steps}
steps of {batch} scenes, {points} points each. {labelled}`clusters` learns nothing: whatever is connected above the
table is one thing, in its smallest rectangle; it has no seed. `fitted`: the boxes of the same detectors, each fitted
to the points in it and {margin} cm near it (`--tighten`), which is no part of the protocol; labels of OSD end where
what is seen of a thing ends, and so do such boxes. {seconds} That is all {folds} folds together.
"""

MARGINS = """
How near points may lie was chosen on {scenes} drawn table tops that the detector (the one that `labelled synthetic`
begins with, seed 0) has not seen, by `python -m benchmarks.tightening`:

{rows}
"""

LABELLED = """`labelled synthetic` is `complement` that was first trained for {steps:,} steps to detect on the same
table tops, whose boxes are known: it has had more labels and more steps than the others. """

ROOMS = """
### Furniture in synthetic rooms

Rendered depth with sensor noise and self-occlusion: {training} training rooms, {test} test rooms with {boxes} things of
{classes} classes. Pre-training sees the training rooms without their boxes for {pretraining} steps; detection takes
{steps} steps of {batch} scenes, {points} points each. {seconds}
"""

BODY = """
Mean over seeds (± standard deviation between seeds):

{means}

By seed:

{by_seed}

Differences with the same seed, paired bootstrap over test scenes:

{differences}

{verdicts}
{cut}"""

AIMED = """
Aims that were set beforehand, beside the arm that comes closest (chosen on the same scenes, which flatters a little):

{rows}
"""

NO_PAIR = "No two arms that are compared have been run with the same seed yet."
CLASSES = """
By class, `{best}` (of the arms that were run, the one with the highest mean AP25), mean over seeds:

{rows}
"""


@dataclass(frozen=True)
class Scored:
    """A run and what its stored boxes are worth.

    Attributes:
        run: As written by ``benchmarks.detection``.
        found: What it finds and what is labelled, by scene, in the order of their names.
        report: Scores with their intervals, as plain data.
    """

    run: Run
    found: tuple[ScenePrediction, ...]
    report: dict[str, Any]

    def score(self, name: str) -> dict[str, Any]:
        """Return a score over all classes with its interval.

        Args:
            name: One of ``SCORES``.
        """
        place, key, _ = SCORES[name]
        value: dict[str, Any] = self.report["thresholds"][place][key]
        return value


def scored(run: Run) -> Scored:
    """Measure the boxes that a run found.

    Args:
        run: As written by ``benchmarks.detection``.
    """
    classes = run["classes"]
    found = []
    for name, scene in sorted(run["scenes"].items()):
        boxes, truth = scene["boxes"], scene["truth"]
        raw = RawBoxes(
            np.array([each["box"] for each in boxes], np.float64).reshape(-1, 7),
            np.array([each["probabilities"] for each in boxes], np.float64).reshape(-1, len(classes)),
            np.array([each["objectness"] for each in boxes], np.float64),
        )
        labels = np.array([classes.index(each["label"]) for each in truth], np.int64)
        true = TrueBoxes(np.array([each["box"] for each in truth], np.float64).reshape(-1, 7), labels)
        found.append(ScenePrediction(name, name, raw, true))
    report = measure(found, classes, Protocol(), RESAMPLES, run["seed"]).to_dict()
    return Scored(run, tuple(found), report)


def fitted(run: Run) -> Run:
    """Return a run as the one whose boxes were fitted to points.

    Args:
        run: As written by ``benchmarks.detection``.
    """
    return {**run, "arm": f"{run['arm']}{FITTED}", "scenes": run["fitted"]}


def difference(ours: Scored, theirs: Scored, threshold: float) -> Estimate:
    """Return how much more average precision one run has than another, on the same resamples of scenes.

    Args:
        ours: A run.
        theirs: Another one of the same world.
        threshold: IoU.

    Raises:
        RecipeError: They were not measured on the same scenes.
    """
    pairs = list(zip(ours.found, theirs.found, strict=False))
    same = all(one.id == other.id and len(one.truth.classes) == len(other.truth.classes) for one, other in pairs)
    if not same or len(ours.found) != len(theirs.found):
        reason = f"'{ours.run['arm']}' and '{theirs.run['arm']}' were measured on other scenes or other labels"
        raise RecipeError("benchmarks/results/detection", reason, "Remove the older JSONs and run them again")
    first, second = ([each.detections(Protocol()) for each in one.found] for one in (theirs, ours))
    truth, classes, seed = [each.truth for each in ours.found], len(ours.run["classes"]), ours.run["seed"]
    return compare_detections(first, second, truth, classes, threshold, bootstrap=RESAMPLES, seed=seed)


def detection(folder: Path) -> str:
    """Return the section; a world without runs is left out.

    Args:
        folder: With ``tables/*.json`` and ``rooms/*.json``.
    """
    page = ""
    for world, build in BUILDERS.items():
        paths = sorted((folder / world).glob("*.json"))
        runs = [scored(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        learned = [run for run in runs if run.run["arm"] != BASELINE]
        if learned:
            check_alike(world, learned)
            learned += [scored(fitted(run.run)) for run in learned if run.run.get("fitted")]
            page += build(learned, next((run for run in runs if run.run["arm"] == BASELINE), None))
            page += margins(folder / "margins.json") if world == "tables" else ""
    return HEAD.format(resamples=RESAMPLES) + page if page else ""


def check_alike(world: str, runs: Sequence[Scored]) -> None:
    """Refuse to compare runs that differ in more than where the weights begin, the image and the seed.

    Args:
        world: One of ``WORLDS``.
        runs: Of it.

    Raises:
        RecipeError: Recipes, pre-training or scenes differ.
    """

    def kind(run: Run) -> str:
        # A key that was added since a run has its default.
        recipe = DetectRecipe.model_validate_json(json.dumps(run["config"]))
        config = recipe.model_dump(mode="json", exclude=set(OWN))
        config["model"] = {key: value for key, value in config["model"].items() if key != "image"}
        shared = [key for key in run["pretraining"] if key not in ARMS[run["arm"]].pretraining]
        pretraining = [key for key in shared if not key.startswith("masking.alignment=")]
        return json.dumps([config, pretraining, run["training_records"], run["data_sha256"]], sort_keys=True)

    for run in runs:
        if kind(run.run) != kind(runs[0].run):
            one, other = (f"'{each['arm']}' ({each['seed']})" for each in (runs[0].run, run.run))
            reason = f"{one} and {other} differ in recipe, pre-training or scenes"
            raise RecipeError(f"benchmarks/results/detection/{world}", reason, "Run all arms by the same recipe")


def _of(runs: Sequence[Scored], arm: str) -> list[Scored]:
    return sorted((run for run in runs if run.run["arm"] == arm), key=lambda run: run.run["seed"])


def _arms(world: str, runs: Sequence[Scored]) -> list[str]:
    """Return the arms that were run, in the order of the plan, and others behind them."""
    found = dict.fromkeys(run.run["arm"] for run in runs)
    planned = [*ARMS_OF[world], *(f"{arm}{FITTED}" for arm in ARMS_OF[world])]
    return [*(arm for arm in planned if arm in found), *(arm for arm in found if arm not in planned)]


def _mean(runs: Sequence[Scored], arm: str, score: str) -> float:
    return mean(run.score(score)["value"] for run in _of(runs, arm))


def best_arm(runs: Sequence[Scored], score: str = "AP25") -> str:
    """Return the arm with the highest mean over seeds.

    Args:
        runs: Of one world.
        score: One of ``SCORES``.
    """
    return max(dict.fromkeys(run.run["arm"] for run in runs), key=lambda arm: _mean(runs, arm, score))


def _means(world: str, runs: Sequence[Scored], baseline: Scored | None) -> str:
    rows = []
    for arm in _arms(world, runs):
        own = _of(runs, arm)
        cells = [spread([run.score(score)["value"] for run in own]) for score in SCORES]
        rows.append([arm, str(len(own)), *cells, f"{mean(run.run['seconds'] for run in own):,.0f}"])
    if baseline is not None:
        rows.append([BASELINE, "–", *(f"{baseline.score(score)['value']:.3f}" for score in SCORES), "–"])
    return table(["arm", "seeds", *SCORES, "seconds"], rows)


def _by_seed(world: str, runs: Sequence[Scored], baseline: Scored | None) -> str:
    rows = []
    for arm in _arms(world, runs):
        for run in _of(runs, arm):
            rows.append([arm, str(run.run["seed"]), *(interval(run.score(score)) for score in SCORES)])
    if baseline is not None:
        rows.append([BASELINE, "–", *(interval(baseline.score(score)) for score in SCORES)])
    return table(["arm", "seed", *SCORES], rows)


def _compared(runs: Sequence[Scored], baseline: Scored | None) -> dict[str, dict[int, dict[str, Estimate]]]:
    """Return by title the differences that are asked for, by seed and score."""
    by_key = {(run.run["arm"], run.run["seed"]): run for run in runs}
    pairs = {
        f"{ours} − {theirs}": {
            seed: (by_key[ours, seed], by_key[theirs, seed])
            for arm, seed in sorted(by_key)
            if arm == ours and (theirs, seed) in by_key
        }
        for ours, theirs in QUESTIONS
    }
    if baseline is not None:
        best = best_arm(runs)
        pairs[f"{best} − {BASELINE}"] = {run.run["seed"]: (run, baseline) for run in _of(runs, best)}
    return {
        title: {
            seed: {score: difference(*pair, threshold) for score, threshold in THRESHOLDS.items()}
            for seed, pair in of_title.items()
        }
        for title, of_title in pairs.items()
        if of_title
    }


def verdict(title: str, found: Sequence[dict[str, Estimate]]) -> str:
    """Return a line that says in how many seeds a difference is more than noise.

    Args:
        title: Of the difference.
        found: By score, one a seed.
    """
    seeds = "1 seed" if len(found) == 1 else f"{len(found)} seeds"
    words = []
    for score in THRESHOLDS:
        above = sum(each[score].low > 0 for each in found)
        below = sum(each[score].high < 0 for each in found)
        sides = [f"{where} zero in {count}" for where, count in (("above", above), ("below", below)) if count]
        said = f"the interval lies {' and '.join(sides)} of {seeds}" if sides else f"**noise** ({seeds})"
        words.append(f"{score}: {said}")
    return f"- `{title}`, {'; '.join(words)}."


def _differences(runs: Sequence[Scored], baseline: Scored | None) -> tuple[str, str]:
    compared = _compared(runs, baseline)
    if not compared:
        return NO_PAIR, ""
    rows = [
        [title, str(seed), *(shown(each[score]) for score in THRESHOLDS)]
        for title, of_title in compared.items()
        for seed, each in of_title.items()
    ]
    lines = [verdict(title, list(of_title.values())) for title, of_title in compared.items()]
    lead = (
        "**noise** means that no seed's interval excludes zero. Where there is no difference, one interval in twenty "
        f"excludes it by chance; {len(THRESHOLDS) * len(rows)} are shown.\n\n"
    )
    return table(["difference", "seed", *THRESHOLDS], rows), lead + "\n".join(lines)


def cut(world: str, runs: Sequence[Scored]) -> str:
    """Return a note on arms that were run with fewer seeds than planned, or not at all; empty where none was.

    Args:
        world: One of ``WORLDS``.
        runs: Of it.
    """
    count = {arm: len(_of(runs, arm)) for arm in ARMS_OF[world]}
    missing = [f"`{arm}`" for arm, seeds in count.items() if not seeds]
    few = [f"`{arm}`: {seeds}" for arm, seeds in count.items() if 0 < seeds < PLANNED_SEEDS]
    lines = [f"Not run: {', '.join(missing)}."] if missing else []
    lines += [f"Fewer seeds than the {PLANNED_SEEDS} planned: {', '.join(few)}."] if few else []
    return "\n" + " ".join(lines) + "\n" if lines else ""


def _body(world: str, runs: Sequence[Scored], baseline: Scored | None) -> str:
    differences, verdicts = _differences(runs, baseline)
    return BODY.format(
        means=_means(world, runs, baseline),
        by_seed=_by_seed(world, runs, baseline),
        differences=differences,
        verdicts=verdicts,
        cut=cut(world, runs),
    )


def _numbers(runs: Sequence[Scored]) -> dict[str, Any]:
    """Return what the texts of both worlds say of their runs."""
    first = runs[0].run
    steps = next(key.split("=")[1] for key in first["pretraining"] if key.startswith("optimisation.steps="))
    seconds = [run.run["seconds"] for run in runs]
    threads = sorted({run.run["threads"] for run in runs})
    counted = f"{' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'}"
    return {
        "test": first["test_records"],
        "boxes": runs[0].report["boxes"],
        "training": " or ".join(str(count) for count in sorted(set(first["training_records"]))),
        "pretraining": f"{int(steps):,}",
        "steps": f"{first['config']['optimisation']['steps']:,}",
        "batch": first["config"]["batch"]["scenes"],
        "points": f"{first['config']['contract']['num_points']:,}",
        "seconds": f"A run takes {mean(seconds):,.0f} s on average and {max(seconds):,.0f} s at most, {counted}.",
    }


def aims(runs: Sequence[Scored], baseline: Scored | None) -> str:
    """Return what was aimed at on OSD beside what was reached.

    Args:
        runs: Of OSD.
        baseline: What learns nothing, if it was run.
    """
    rows = []
    for score, aim in AIMS.items():
        best = best_arm(runs, score)
        value, outcome = spread([run.score(score)["value"] for run in _of(runs, best)]), _mean(runs, best, score) >= aim
        plain = [run for run in runs if not run.run["arm"].endswith(FITTED)]
        own = best_arm(plain, score)
        beside = "–" if baseline is None else f"{baseline.score(score)['value']:.3f}"
        unfitted = f"{_mean(plain, own, score):.3f} ({own})"
        rows.append([score, f"{aim:.2f}", value, best, "yes" if outcome else "no", unfitted, beside])
    heads = ["score", "aim", "highest mean over seeds", "arm", "reached", "by the protocol alone", BASELINE]
    return AIMED.format(rows=table(heads, rows))


def _tables(runs: Sequence[Scored], baseline: Scored | None) -> str:
    first = _of(runs, "labelled synthetic")
    labelled = LABELLED.format(steps=WORLDS["tables"].labelled) if first else ""
    numbers = _numbers(runs) | {"margin": f"{100 * MARGIN_M:g}"}
    text = TABLES.format(**numbers, folds=FOLDS, table_tops=TABLE_TOPS, labelled=labelled)
    return f"{text}{aims(runs, baseline)}{_body('tables', runs, baseline)}"


def margins(path: Path) -> str:
    """Return what was measured to choose a margin; empty where nothing was.

    Args:
        path: As written by ``benchmarks.tightening``.
    """
    if not path.is_file():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        ["as found" if each["margin_m"] is None else f"{100 * each['margin_m']:g} cm"]
        + [interval(each[score]) for score in THRESHOLDS]
        for each in found["margins"]
    ]
    return MARGINS.format(scenes=found["test_records"], rows=table(["margin", *THRESHOLDS], rows))


def _rooms(runs: Sequence[Scored], baseline: Scored | None) -> str:
    text = ROOMS.format(**_numbers(runs), classes=len(runs[0].run["classes"]))
    return text + _body("rooms", runs, baseline) + _classes(runs)


def _classes(runs: Sequence[Scored]) -> str:
    best = best_arm(runs)
    own = _of(runs, best)
    rows = []
    for number, first in enumerate(own[0].report["thresholds"][0]["classes"]):
        cells = [
            spread([run.report["thresholds"][place]["classes"][number][key]["value"] for run in own])
            for place, _, key in SCORES.values()
        ]
        rows.append([first["name"], str(first["boxes"]), *cells])
    return CLASSES.format(best=best, rows=table(["class", "things", *SCORES], rows))


BUILDERS: dict[str, Callable[[Sequence[Scored], Scored | None], str]] = {"tables": _tables, "rooms": _rooms}
