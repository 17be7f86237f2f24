"""How near a box points may lie that it is fitted to: chosen on drawn table tops, of which the detector has seen none.

    python -m benchmarks.tightening                        # then benchmarks.tables
    python -m benchmarks.tightening --held-out other/manifest.jsonl

The detector is the one that ``labelled synthetic`` of ``benchmarks.detection`` begins with (seed 0), trained now or
before. No scene of OSD takes part: ``benchmarks.detection`` measures the chosen margin there.
"""

import argparse
from pathlib import Path

import torch

import crossdim
from benchmarks import detection
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.table_tops import make_table_tops
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.training.detection_conclusion import Unknown, evaluate_boxes
from crossdim.training.provenance import git_commit
from crossdim.training.recipe_detect import DetectionEvaluationSection
from crossdim.transforms.contract import PreprocessingContract

MARGINS_M = (None, 0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04)
"""None leaves the boxes as they are."""
TABLE_TOPS, SEED = 60, 1
"""Drawn to measure on: another seed than that of the training."""


def main() -> None:
    """Measure every margin and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/detection"), help="as benchmarks.detection")
    parser.add_argument("--held-out", type=Path, help="a manifest of scenes with boxes to measure on instead")
    given = parser.parse_args()
    work, name = given.work.resolve() / "tables", "margins"
    if given.held_out is None:
        path = work / "margins" / "manifest.jsonl"
        if not path.is_file():
            make_table_tops(path.parent, TABLE_TOPS, (180, 240), seed=SEED, fractions=(1.0, 0.0, 0.0))
        scenes = Manifest.load(path)
    else:
        scenes, name = Manifest.load(given.held_out), f"margins-held-out-{given.held_out.stem}"
    run = detection.beginning("tables", "labelled synthetic", 0, work)
    model, contract = Detr3dForObjectDetection.from_pretrained(run).eval(), PreprocessingContract.from_pretrained(run)
    rows = []
    for margin in MARGINS_M:
        section = DetectionEvaluationSection(tighten_m=margin)
        measured, _ = evaluate_boxes(model, contract, scenes, section, Unknown("leave_out", "keep"), 0)
        thresholds = measured.report.to_dict()["thresholds"]
        scores = {f"AP{100 * each['iou']:.0f}": each["mean_average_precision"] for each in thresholds}
        rows.append({"margin_m": margin, **scores})
        print(margin, *(f"{score} {value['value']:.3f}" for score, value in scores.items()), flush=True)
    content = {
        "benchmark": "detection/margins",
        "evaluated_on": scenes.header.name,
        "test_records": len(scenes),
        "data_sha256": scenes.data_hash(),
        "crossdim": crossdim.__version__,
        "commit": git_commit(),
        "threads": torch.get_num_threads(),
        "margins": rows,
    }
    detection.write(detection.RESULTS / f"{name}.json", content)


if __name__ == "__main__":
    main()
