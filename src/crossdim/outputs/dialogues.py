"""The report on an evaluation of answers: results beside their baselines, by type, slices found, examples, doubts."""

from collections.abc import Mapping, Sequence
from math import isfinite

from crossdim.metrics.dialogue_report import ALWAYS_BESIDE, AnswerItem, DialogueReport, FormReport
from crossdim.metrics.pooling import Differences, is_noise
from crossdim.metrics.resampling import Estimate
from crossdim.metrics.slices import OTHERS, SliceReport
from crossdim.outputs.answers import DISCLAIMER
from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings
from crossdim.outputs.report import ABSENT, interval_text, provenance_section, signed_text

METRICS = {
    "accuracy": "Accuracy",
    "finding_precision": "Findings: precision",
    "finding_recall": "Findings: recall",
    "finding_f1": "Findings: F1",
    "exact": "Exact match",
    "within_10_percent": "Number within 10 %",
    "within_15_percent": "Number within 15 %",
    "bleu1": "BLEU-1",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR",
    "bertscore": "BERTScore",
}
OF_SLICES = {
    "auroc": "AUROC of slices in the range",
    "average_precision": "Average precision",
    "pointing": "Best slice in the range",
}
SCORERS = {"model": "model", "uniform": "equal scores", "prior": "usual place"}
FORM_TITLES = {"closed": "Closed questions", "open": "Open questions", "report": "Reports"}
EXAMPLES = 4
"""Right and wrong answers that are shown of each form."""

RIGHT_FROM = 0.5
"""From this score on, an open answer or a report is shown among the better ones."""

LONGEST_TEXT = 700


def dialogue_document(
    report: DialogueReport,
    title: str,
    provenance: Mapping[str, str],
    slices: SliceReport | None = None,
    pictures: Sequence[Picture] = (),
) -> Document:
    """Return the report on an evaluation of answers.

    Args:
        report: Of the answers.
        title: Of the page.
        provenance: Model, data, versions, commit, seed, command, ...: whatever it takes to repeat this.
        slices: Of the slice scores, where they were measured.
        pictures: Examples of slice scores.
    """
    data = {"answers": report.to_dict(), "slices": slices.to_dict() if slices else None, "provenance": dict(provenance)}
    sections = [*dialogue_sections(report, slices, pictures), provenance_section(provenance)]
    return Document(title, dialogue_headline(report, slices), tuple(sections), data)


def dialogue_sections(
    report: DialogueReport, slices: SliceReport | None = None, pictures: Sequence[Picture] = ()
) -> list[Section]:
    """Return doubts, the results of each form of question, the slices, examples and how to read them.

    Args:
        report: Of the answers.
        slices: Of the slice scores.
        pictures: Examples of slice scores.
    """
    flags = (*report.flags, *(f"Slices: {flag}" for flag in (slices.flags if slices else ())))
    missing = tuple(
        f"{METRICS.get(name, name)} is unavailable: {reason}" for name, reason in report.unavailable.items()
    )
    sections = [Section("Look out", (Warnings((*flags, *missing)),))] if flags or missing else []
    sections += [Section(FORM_TITLES[form], tuple(_form_blocks(found))) for form, found in report.forms.items()]
    if slices is not None or pictures:
        sections.append(Section("Slices", (*(_slice_blocks(slices) if slices else ()), *pictures)))
    sections += _examples(report)
    texts = (_protocol(report), *report.notes, DISCLAIMER)
    sections.append(Section("How to read this", tuple(Paragraph(text) for text in texts)))
    return sections


def dialogue_headline(report: DialogueReport, slices: SliceReport | None = None) -> str:
    """Return an evaluation of answers in a sentence, baselines included.

    Args:
        report: Of the answers.
        slices: Of the slice scores.
    """
    parts = []
    for form, found in report.forms.items():
        name = found.primary
        text = f"{form}: {METRICS[name]} {interval_text(found.predictors['model'].micro[name])}"
        beside = [
            f"{other} {each.micro[name].value:.3f}" for other, each in found.predictors.items() if other != "model"
        ]
        beside += [f"guessing {found.chance:.3f}"] if found.chance is not None else []
        parts.append(f"{text} beside {', '.join(beside)}" if beside else text)
    if slices is not None:
        parts.append(f"slices: AUROC {interval_text(slices.scorers['model'].micro['auroc'])}")
    questions = f"{report.questions} questions about {report.patients} patients"
    return f"{'; '.join(parts)}. {questions}."


def _form_blocks(found: FormReport) -> list[Block]:
    names = [name for name in METRICS if name in found.predictors["model"].micro]
    others = {name: found.predictors.get(name) for name in dict.fromkeys((*ALWAYS_BESIDE, *found.predictors))}
    others.pop("model")
    columns = {"model": found.predictors["model"], **others}
    rows = []
    for name in names:
        for kind in ("micro", "macro") if len(found.predictors["model"].types) > 1 else ("micro",):
            cells = [interval_text(getattr(each, kind)[name]) if each else "not measured" for each in columns.values()]
            rows.append((f"{METRICS[name]}, {kind}", *cells))
    if found.chance is not None:
        rows.append(("Guessing among the choices", f"{found.chance:.3f}", *(ABSENT for _ in others)))
    counts = {f"empty ({name})": str(count) for name, count in found.empty.items() if count}
    counts |= {f"none of the choices ({name})": str(count) for name, count in found.unparsed.items()}
    caption = f"{found.questions} questions about {found.patients} patients: value (95 % interval)"
    blocks: list[Block] = [Table(caption, ("metric", *columns), tuple(rows)), _type_table(found)]
    blocks += [_difference_table(name, each, METRICS) for name, each in found.differences.items()]
    return [*blocks, Facts(counts)] if counts else blocks


def _type_table(found: FormReport) -> Table:
    columns = list(found.predictors)
    by_type = {name: {each.name: each for each in pooled.types} for name, pooled in found.predictors.items()}
    rows = tuple(
        (
            each.name or "(no type)",
            str(each.questions),
            str(each.patients),
            *(interval_text(by_type[column][each.name].metrics[found.primary]) for column in columns),
            *([f"{found.chance_by_type[each.name]:.3f}"] if found.chance is not None else []),
        )
        for each in found.predictors["model"].types
    )
    guessing = ("guessing",) if found.chance is not None else ()
    return Table(
        f"{METRICS[found.primary]} by type of question",
        ("type", "questions", "patients", *columns, *guessing),
        rows,
    )


def _difference_table(name: str, differences: Differences, labels: Mapping[str, str]) -> Table:
    rows = tuple(
        (f"{label}, {kind}", signed_text(each.value), _interval(each), "noise" if is_noise(each) else "real")
        for metric, label in labels.items()
        for kind in ("micro", "macro")
        if metric in differences.micro and isfinite((each := getattr(differences, kind)[metric]).value)
    )
    columns = ("metric", "difference", "95 % interval", "noise or real")
    return Table(f"Model minus {name}, on the same resamples", columns, rows)


def _interval(estimate: Estimate) -> str:
    if not isfinite(estimate.low):
        return ABSENT
    return f"{signed_text(estimate.low)} to {signed_text(estimate.high)}"


def _slice_blocks(slices: SliceReport) -> list[Block]:
    columns = list(slices.scorers)
    rows = tuple(
        (label, *(interval_text(slices.scorers[column].micro[name]) for column in columns))
        for name, label in OF_SLICES.items()
    )
    headings = tuple(SCORERS[column] for column in columns)
    caption = f"{slices.questions} questions about {slices.patients} patients: mean (95 % interval)"
    by_type = {column: {each.name: each for each in slices.scorers[column].types} for column in columns}
    types = tuple(
        (
            each.name or "(no type)",
            str(each.questions),
            *(interval_text(by_type[column][each.name].metrics["auroc"]) for column in columns),
            interval_text(each.metrics["average_precision"]),
            interval_text(each.metrics["pointing"]),
        )
        for each in slices.scorers["model"].types
    )
    of_model = ("average precision (model)", "best slice (model)")
    auroc = ("AUROC", *(f"AUROC, {heading}" for heading in headings[1:]))
    blocks: list[Block] = [
        Table(caption, ("metric", *headings), rows),
        Table("By type of question", ("type", "questions", *auroc, *of_model), types),
    ]
    blocks += [_difference_table(OTHERS[name], each, OF_SLICES) for name, each in slices.differences.items()]
    left_out = {f"left out: {reason}": str(count) for reason, count in slices.left_out.items() if count}
    return [*blocks, Facts(left_out)] if left_out else blocks


def _examples(report: DialogueReport) -> list[Section]:
    sections = []
    for form, found in report.forms.items():
        items = [item for item in report.items if item.form == form]
        good, bad = (
            _spread([item for item in items if ((item.scores.get(found.primary) or 0.0) >= RIGHT_FROM) is wanted])
            for wanted in (True, False)
        )
        names = ("Right", "Wrong") if form == "closed" else ("Closer", "Further off")
        blocks: list[Block] = []
        for name, shown in zip(names, (good, bad), strict=True):
            for item in shown:
                blocks.append(Facts(_example(name, item, found.primary)))
        if blocks:
            sections.append(Section(f"Examples: {FORM_TITLES[form].lower()}", tuple(blocks)))
    return sections


def _spread(items: Sequence[AnswerItem]) -> list[AnswerItem]:
    """Return a few items of as many types as possible: the first of each type, then the second, ..."""
    seen: dict[str, int] = {}
    turns = []
    for place, item in enumerate(items):
        seen[item.type] = seen.get(item.type, 0) + 1
        turns.append((seen[item.type], place))
    return [items[place] for _, place in sorted(turns)[:EXAMPLES]]


def _example(name: str, item: AnswerItem, primary: str) -> dict[str, str]:
    score = item.scores.get(primary)
    verdict = name if item.form == "closed" or score is None else f"{name} ({METRICS[primary]} {score:.2f})"
    facts = {
        verdict: f"{item.id}{f', {item.type}' if item.type else ''}",
        "question": _cut(item.question),
        "true": _cut(item.answer),
        "answered": _cut(item.prediction) or "(nothing)",
    }
    if item.form == "closed" and item.choice is None:
        facts["taken for"] = "none of the choices"
    return facts


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _protocol(report: DialogueReport) -> str:
    return (
        f"Intervals hold 95 % of {report.bootstrap} resamples of patients with replacement (percentiles, seed "
        f"{report.seed}); differences are taken within each resample. A difference whose interval holds zero is noise."
    )
