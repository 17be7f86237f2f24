"""Splits by patient: seeded, stratified where a task is given, and the same whatever the order of the records.

Patients are ordered by stratum, and within one by a hash of the seed and their id. Each in turn goes to the part that
lacks most of its share so far. So every stratum is shared out in the wanted proportions to within about a patient,
what is left over in one stratum is made up in the next, and no patient is ever divided.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from crossdim.datasets.manifest import SPLITS, Manifest, Record, SplitName
from crossdim.errors import RecipeError

Fractions = tuple[float, float, float]


def split_by_patient(
    manifest: Manifest,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: int = 0,
    stratify: str | None = None,
) -> Manifest:
    """Return the manifest with every record in train, val or test, drawn anew.

    Images and volumes are always stratified, so that each part gets its share of both.

    Args:
        manifest: Any manifest; splits it already has are replaced.
        fractions: Shares of the records for (train, val, test), which sum to 1; 0 leaves a part empty.
        seed: Another seed gives another split; it is stored in the header.
        stratify: Task whose classes each part gets its share of. A patient with several classes counts for the
            rarest of them.

    Raises:
        RecipeError: If the fractions are no shares, the task is unknown, or there are fewer patients than parts.
    """
    _check_fractions(fractions)
    patients = _by_patient(manifest.records)
    parts = [name for name, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0]
    if len(patients) < len(parts):
        raise RecipeError(
            f"manifest '{manifest.header.name}'",
            f"{len(patients)} patients cannot fill {len(parts)} parts ({', '.join(parts)})",
            "Give a part the fraction 0 (--fractions 1 0 0 trains on all), or check the rule that finds patient ids",
        )
    strata = _strata(manifest, patients, stratify)
    order = sorted(patients, key=lambda patient: (strata[patient], _rank(seed, patient)))
    sizes = {patient: len(patients[patient]) for patient in order}
    split_of = _share_out(order, sizes, dict(zip(SPLITS, fractions, strict=True)))
    records = tuple(record.model_copy(update={"split": split_of[record.patient_id]}) for record in manifest.records)
    return replace(manifest, header=manifest.header.model_copy(update={"split_seed": seed}), records=records)


def carve_validation(manifest: Manifest, fraction: float = 0.1, seed: int = 0, stratify: str | None = None) -> Manifest:
    """Return the manifest with some patients of its training part moved to validation; the test part stays.

    For data sets that come with a training and a test part only.

    Args:
        manifest: A manifest with a training part.
        fraction: Share of the training records to move, above 0 and below 1.
        seed: Another seed moves other patients; it is stored in the header.
        stratify: Task whose classes validation gets its share of.

    Raises:
        RecipeError: If the fraction is no share, the task is unknown, or training has fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise RecipeError(f"validation fraction {fraction}", "is not above 0 and below 1", "Give a share such as 0.1")
    elsewhere = {record.patient_id for record in manifest.records if record.split != "train"}
    free = tuple(r for r in manifest.records if r.split == "train" and r.patient_id not in elsewhere)
    drawn = split_by_patient(Manifest(manifest.header, free), (1 - fraction, fraction, 0.0), seed, stratify)
    split_of = {record.id: record.split for record in drawn.records}
    records = tuple(
        record.model_copy(update={"split": split_of.get(record.id, record.split)}) for record in manifest.records
    )
    return replace(manifest, header=drawn.header, records=records)


def _check_fractions(fractions: Fractions) -> None:
    shares = all(0 <= fraction <= 1 for fraction in fractions) and abs(sum(fractions) - 1) < 1e-6
    if not shares or fractions[0] == 0:
        raise RecipeError(
            f"fractions {', '.join(f'{fraction:g}' for fraction in fractions)}",
            "are not three shares of train, val, test that sum to 1, with something for train",
            "Give three numbers such as 0.7, 0.1, 0.2",
        )


def _by_patient(records: Iterable[Record]) -> dict[str, list[Record]]:
    patients = defaultdict(list)
    for record in records:
        patients[record.patient_id].append(record)
    return patients


def _strata(manifest: Manifest, patients: Mapping[str, Sequence[Record]], task: str | None) -> dict[str, str]:
    """Return each patient's stratum: the kinds of their records, and the rarest of their classes."""
    if task is not None:
        manifest.task(task)
    classes = {patient: _classes(records, task) for patient, records in patients.items()}
    patients_with = Counter(label for labels in classes.values() for label in labels)

    def stratum(patient: str) -> str:
        kinds = "+".join(sorted({record.kind for record in patients[patient]}))
        rarest = min(classes[patient], key=lambda label: (patients_with[label], label), default=None)
        return f"{kinds}/{rarest}"

    return {patient: stratum(patient) for patient in patients}


def _classes(records: Iterable[Record], task: str | None) -> set[int]:
    found: set[int] = set()
    for record in records:
        label = record.labels.get(task, ()) if task is not None else ()
        found.update(label if isinstance(label, tuple) else (label,))
    return found


def _rank(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _share_out(
    order: Sequence[str], sizes: Mapping[str, int], fractions: Mapping[SplitName, float]
) -> dict[str, SplitName]:
    """Return the part of each patient; each part with a share gets at least one."""
    split_of: dict[str, SplitName] = {}
    lacking = dict.fromkeys(SPLITS, 0.0)
    parts = [name for name in SPLITS if fractions[name] > 0]
    for patient in order:
        for name in parts:
            lacking[name] += fractions[name] * sizes[patient]
        chosen = max(parts, key=lambda name: lacking[name])
        lacking[chosen] -= sizes[patient]
        split_of[patient] = chosen
    for empty in (name for name in parts if name not in split_of.values()):
        counts = Counter(split_of.values())
        fullest = max(parts, key=lambda name: counts[name])
        smallest = min((p for p in order if split_of[p] == fullest), key=lambda p: sizes[p])
        split_of[smallest] = empty
    return split_of
