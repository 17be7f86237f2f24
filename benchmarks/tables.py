"""Assemble ``docs/reference/results.md`` from the JSON of every run: ``python -m benchmarks.tables``.

Nothing is computed here that is not in the JSONs, but for the paired bootstrap between two arms of the same seed.
"""

import json
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from benchmarks.tables_detection import detection
from benchmarks.tables_med2e3 import med2e3
from benchmarks.tables_pimae import pimae
from crossdim.metrics.classification import paired_bootstrap

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reference" / "results.md"
SHOWN = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_kappa": "κ (quadratic)",
}

HEAD = """# Results

Every number on this page is assembled by `python -m benchmarks.tables` from one JSON per run in `benchmarks/results/`
(configuration, seed, data hash, predictions by id). Configurations are **reduced**: they fit two processor cores and
30 minutes a run, and say nothing about what the published sizes reach.
"""

RETINA = """
## RetinaMNIST, from scratch and after mixed pre-training

```
python -m benchmarks.retinamnist --data "$CROSSDIM_DATA" && python -m benchmarks.tables
```

RetinaMNIST (MedMNIST v2, 28 x 28 pixels, five ordered grades of diabetic retinopathy), official parts: 1,080 training,
120 validation, 400 test images. The encoder is the tiny preset cut to 6 layers, patch 4. `pretrained` saw the training
images without their labels together with 200 hippocampus MR volumes ({steps} mixed steps). Both arms are then
fine-tuned alike (8 passes; the encoder that was pre-trained with a layer decay of 0.75), the pass chosen by AUC on the
validation part. `chance` gives everyone the class frequencies of the training part. Intervals: 95 %, bootstrap over the
test images. Seconds: one thread, on a machine that was doing other things. `--held-out MANIFEST` evaluates on other
data.

{rows}

Mean over seeds (± standard deviation between seeds):

{means}

Difference `pretrained` − `scratch` with the same seed, paired bootstrap over the test images:

{differences}

{verdict}
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: Names of the columns.
        rows: Cells.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def estimate(value: dict[str, float | None]) -> str:
    """Return ``0.712 [0.690, 0.735]``, or a dash where there is no number.

    Args:
        value: ``value``, ``low`` and ``high``.
    """
    if value["value"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def retinamnist(folder: Path) -> str:
    """Return the section of the RetinaMNIST runs.

    Args:
        folder: Where their JSONs are.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows = [
        [
            run["arm"],
            str(run["seed"]),
            *(estimate(run["report"]["metrics"][name]) for name in SHOWN),
            f"{run['seconds']:.0f}",
        ]
        for run in runs
    ]
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    means = [[arm, *(_spread([run for run in runs if run["arm"] == arm], name) for name in SHOWN)] for arm in arms]
    by_key = {(run["arm"], run["seed"]): run for run in runs}
    seeds = sorted(seed for arm, seed in by_key if arm == "pretrained" and ("scratch", seed) in by_key)
    found = {seed: _difference(by_key["pretrained", seed], by_key["scratch", seed]) for seed in seeds}
    differences = [
        [str(seed), *(f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]" for e in (found[seed][name] for name in SHOWN))]
        for seed in seeds
    ]
    steps = next(key.split("=")[1] for key in by_key["pretrained", seeds[0]]["pretraining"] if "steps=" in key)
    return RETINA.format(
        steps=f"{int(steps):,}",
        rows=table(["arm", "seed", *SHOWN.values(), "seconds"], rows),
        means=table(["arm", *SHOWN.values()], means),
        differences=table(["seed", *SHOWN.values()], differences),
        verdict=_verdict([found[seed]["auc"] for seed in seeds]),
    )


def _spread(runs: list[dict], name: str) -> str:
    values = [run["report"]["metrics"][name]["value"] for run in runs]
    if any(value is None for value in values):
        return "–"
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def _difference(ours: dict, theirs: dict) -> dict:
    ids = list(ours["labels"])
    first, second = (np.array([run["predictions"][name] for name in ids]) for run in (ours, theirs))
    labels = np.array([ours["labels"][name] for name in ids])
    return paired_bootstrap(first, second, labels, None, ours["report"]["problem"], seed=ours["seed"])


def _verdict(differences: list) -> str:
    above = sum(e.low > 0 for e in differences)
    below = sum(e.high < 0 for e in differences)
    if above == below == 0:
        return f"No seed's AUC interval excludes zero ({len(differences)} seeds): the difference is **noise**."
    return (
        f"The interval of the AUC's difference lies above zero in {above} and below zero in {below} of the "
        f"{len(differences)} seeds."
    )


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    temporary = PAGE.with_suffix(".tmp")
    results = HERE / "results"
    page = retinamnist(results / "retinamnist") + med2e3(results / "med2e3", results / "med2e3_cost" / "cost.json")
    page += pimae(results / "pimae") + detection(results / "detection")
    temporary.write_text(HEAD + page, encoding="utf-8")
    temporary.replace(PAGE)


if __name__ == "__main__":
    main()
