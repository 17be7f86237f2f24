"""What every `crossdim prepare` shares: its options, and what it says about the manifest that it made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import bar, print_json, show_facts

if TYPE_CHECKING:
    from crossdim.datasets.audit import Finding
    from crossdim.datasets.manifest import Manifest, SplitName

Out = Annotated[Path, typer.Option(metavar="JSONL", help="The manifest to write.")]
Fractions = Annotated[
    tuple[float, float, float], typer.Option(metavar="TRAIN VAL TEST", help="Shares of the parts; 1 0 0 for no split.")
]
Seed = Annotated[int, typer.Option(help="Seed of the split; stored in the manifest.")]
Validation = Annotated[float, typer.Option(help="Share of the training part that becomes validation.")]
Audit = Annotated[bool, typer.Option(help="Read every file again and look for leaks, duplicates and empty files.")]

SHOWN = 5
"""Lines of a kind that are printed in full; `--json` has all of them."""


@dataclass(frozen=True)
class _Summary:
    """What a new manifest holds; the `--json` of every `prepare`."""

    path: str
    name: str
    sha256: str
    kinds: dict[str, int]
    patients: int
    parts: dict[str, int]
    labels: dict[str, dict[str, dict[str, int]]]
    questions: dict[str, dict[str, dict[str, int]]]
    located: float | None
    notes: tuple[str, ...]
    skipped: tuple[dict[str, str], ...]
    findings: tuple[dict[str, str], ...]


def finish(manifest: "Manifest", out: Path, audit: bool, as_json: bool) -> None:
    """Save a manifest, audit it if asked to, and say what it holds.

    Args:
        manifest: What a command made.
        out: Where it goes.
        audit: Whether to read every file and look for problems.
        as_json: Whether to print JSON.
    """
    manifest.save(out)
    findings: list[Finding] = []
    if audit:
        from crossdim.datasets.audit import audit as look_for_problems

        with bar("auditing") as progress:
            findings = look_for_problems(manifest, progress=progress)
    summary = _summarise(manifest, out, findings)
    if as_json:
        print_json(summary)
    else:
        show_facts(_facts(summary))


def _summarise(manifest: "Manifest", out: Path, findings: "list[Finding]") -> _Summary:
    from collections import Counter

    from crossdim.datasets.audit import count_labels, count_questions
    from crossdim.datasets.manifest import SPLITS

    counts = Counter(record.split for record in manifest.records)
    turns = [turn for record in manifest.records for dialogue in record.dialogues for turn in dialogue.turns]
    return _Summary(
        path=str(out),
        name=manifest.header.name,
        sha256=manifest.sha256,
        kinds=dict(Counter(record.kind for record in manifest.records)),
        patients=len({record.patient_id for record in manifest.records}),
        parts={str(part): count for part in (*SPLITS, None) if (count := counts[part])},
        labels=_named(count_labels(manifest)),
        questions=_named(count_questions(manifest)),
        located=sum(turn.extent_mm is not None for turn in turns) / len(turns) if turns else None,
        notes=manifest.notes,
        skipped=tuple({"path": skipped.path, "reason": skipped.reason} for skipped in manifest.skipped),
        findings=tuple({"severity": f.severity, "problem": f.problem, "message": f.message} for f in findings),
    )


def _named(
    counts: "Mapping[str, Mapping[str, Mapping[SplitName | None, int]]]",
) -> dict[str, dict[str, dict[str, int]]]:
    return {
        outer: {inner: {str(part): count for part, count in parts.items()} for inner, parts in several.items()}
        for outer, several in counts.items()
    }


def _facts(summary: _Summary) -> Iterator[tuple[str, str]]:
    yield "manifest", summary.path
    yield "holds", ", ".join(f"{count} {kind}s" for kind, count in summary.kinds.items())
    yield "patients", str(summary.patients)
    yield "parts", ", ".join(f"{part} {count}" for part, count in summary.parts.items())
    for task, classes in summary.labels.items():
        for label, parts in classes.items():
            yield f"task {task}", f"{label}: {', '.join(f'{part} {count}' for part, count in parts.items())}"
    for form, types in summary.questions.items():
        for type_, parts in types.items():
            shown = ", ".join(f"{part} {count}" for part, count in parts.items())
            yield f"{form} questions", f"{type_ or 'without a type'}: {shown}"
    if summary.located is not None:
        yield "located", f"{summary.located:.0%} of the questions have a known extent in the patient"
    yield from (("note", note) for note in summary.notes)
    yield from _first("left out", [f"{skipped['path']}: {skipped['reason']}" for skipped in summary.skipped])
    for severity in ("error", "warning"):
        messages = [finding["message"] for finding in summary.findings if finding["severity"] == severity]
        yield from _first(severity, messages)


def _first(name: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    yield from ((name, line) for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield name, f"and {len(lines) - SHOWN} more; --json lists all"
