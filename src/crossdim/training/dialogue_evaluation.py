"""A model that answers questions, measured on the records of a manifest; never without what it is to be compared to.

Two baselines answer the same questions: ``blind`` says what was true most often in training and looks at nothing,
``shuffled`` is the model itself, shown the volumes of another patient. Slice scores stand beside equal scores and
beside the places where training answers usually were.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from crossdim.datasets.dialogue import Turn
from crossdim.datasets.manifest import Manifest, Progress, Record
from crossdim.errors import ContractError, RecipeError
from crossdim.inference import Answerer
from crossdim.inference.answerer import Answered, Question
from crossdim.metrics.dialogue_report import DialogueReport, Reference
from crossdim.metrics.dialogues import Measures, evaluate_answers
from crossdim.metrics.priors import QuestionPrior, question_prior
from crossdim.metrics.slices import SlicePrior, SliceQuestion, SliceReport, evaluate_slices, slice_prior
from crossdim.readers import read_channels
from crossdim.samples import Answer
from crossdim.training.data import spread_evenly
from crossdim.training.dialogues import OVERFLOW, shown
from crossdim.transforms.text import slice_targets

PRIOR_RECORDS = 64
"""Training volumes whose ranges make the slice prior; evenly spread over the split."""


@dataclass(frozen=True)
class Evaluating:
    """How an evaluation is made.

    Attributes:
        bootstrap: Resamples by patient behind the intervals.
        seed: Of the resamples, and of who is shown whose volume.
        batch: Questions that are read at once.
        closed: Whether the choices of closed questions are weighed, or an answer is written and read.
        max_new_tokens: Length of a written answer, at most; None leaves all the room there is.
        too_long: Whether a question that is longer than the model can take stops the evaluation or is left out.
    """

    bootstrap: int = 1000
    seed: int = 0
    batch: int = 32
    closed: Literal["weigh", "write"] = "weigh"
    max_new_tokens: int | None = None
    too_long: Literal["refuse", "skip"] = "refuse"


@dataclass(frozen=True)
class DialogueEvaluation:
    """What an evaluation found.

    Attributes:
        answers: Text metrics beside the baselines.
        slices: Where slice scores point; None where no range of slices is known or slices are not scored.
        predictions: For each question what everyone said, the probabilities and the slice scores.
        notes: What was left out, and which baseline could not be had.
    """

    answers: DialogueReport
    slices: SliceReport | None
    predictions: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them; predictions are kept apart."""
        slices = self.slices.to_dict() if self.slices is not None else None
        return {"answers": self.answers.to_dict(), "slices": slices, "notes": list(self.notes)}


@dataclass(frozen=True)
class _Asked:
    """A question of the manifest."""

    id: str
    record: Record
    turns: tuple[Turn, ...]

    @property
    def turn(self) -> Turn:
        return self.turns[-1]


@dataclass
class _Heard:
    """What the model said, gathered while it answers."""

    own: dict[str, Answer] = field(default_factory=dict)
    shuffled: dict[str, str] = field(default_factory=dict)
    slices: list[SliceQuestion] = field(default_factory=list)


def evaluate_dialogues(
    answerer: Answerer,
    part: Manifest,
    training: Manifest | None,
    how: Evaluating | None = None,
    measures: Measures | None = None,
    progress: Progress | None = None,
) -> DialogueEvaluation:
    """Measure a model on the questions of some records.

    A later turn of a dialogue is asked with the true answers to the earlier ones. The slice scores of a question are
    measured where it is about a single volume.

    Args:
        answerer: The model.
        part: Usually one split.
        training: Where the baselines learn; None, or one without answers, leaves out those that need it.
        how: Resamples, seed, batch.
        measures: What is measured; all that this installation can compute when left out.
        progress: Called with (done, all) after each batch.

    Raises:
        RecipeError: No question has a known answer.
        ContractError: A record does not fit the model's preprocessing, or a question is too long.
        ReadError: A file cannot be read.
    """
    how = how or Evaluating()
    asked, notes = _fitting(answerer, list(_asked(part)), how.too_long)
    if not asked:
        reason = "has no question with a known answer" + (" that is short enough" if notes else "")
        raise RecipeError(f"part of '{part.header.name}'", reason, "Choose another part, or add dialogues")
    donors = _donors([question.record for question in asked], how.seed)
    if donors is None:
        notes.append("No shuffled baseline: there is nobody else whose volumes could be shown.")
    heard = _answered(answerer, part, asked, donors, how, progress)
    prior = _question_prior(training)
    if prior is None:
        notes.append("No blind baseline: there is no training split to learn it from.")
    blind = None if prior is None else [prior(question.turn) for question in asked]
    shuffled = None if donors is None else [heard.shuffled[question.id] for question in asked]
    answers = evaluate_answers(
        [_reference(question) for question in asked],
        [heard.own[question.id].text for question in asked],
        {"blind": blind, "shuffled": shuffled},
        measures,
        how.bootstrap,
        how.seed,
    )
    slices = _slices(answerer, heard.slices, training, how)
    baselines = {"blind": blind, "shuffled": shuffled}
    return DialogueEvaluation(answers, slices, tuple(_predictions(asked, heard, baselines)), tuple(notes))


def _asked(part: Manifest) -> Iterator[_Asked]:
    for record in part.records:
        for dialogue in record.dialogues:
            known: tuple[Turn, ...] = ()
            for place, turn in enumerate(dialogue.turns):
                if not turn.answer:
                    continue
                name = f"{record.id}/{dialogue.id}" + (f"/{place}" if len(dialogue.turns) > 1 else "")
                known = (*known, turn)
                yield _Asked(name, record, known)


def _fitting(
    answerer: Answerer, asked: Sequence[_Asked], too_long: Literal["refuse", "skip"]
) -> tuple[list[_Asked], list[str]]:
    """Return the questions that the model has room for, with the true answer and every one that it could choose."""
    kept = []
    for question in asked:
        *before, turn = question.turns
        try:
            for answer in turn.choices or (turn.answer,):
                said = turn.model_copy(update={"answer": answer})
                answerer.processor.encode((*before, said), *shown(question.record))
        except ContractError as error:
            if error.subject != OVERFLOW or too_long == "refuse":
                raise ContractError(f"question '{question.id}': {error.subject}", error.reason, error.remedy) from error
        else:
            kept.append(question)
    left_out = len(asked) - len(kept)
    return kept, [f"{left_out} questions are longer than the model can take, and are left out."] if left_out else []


def _donors(records: Sequence[Record], seed: int) -> dict[str, Record] | None:
    """Return for each record another patient's of the same kind, or None where somebody has no other patient.

    Patients are put in random order, their records one behind the other; each record is shown the one that lies as many
    places further as the patient with the most records has, so that every one is shown once. Where one patient has more
    than half of the records, others are drawn.
    """
    donors: dict[str, Record] = {}
    alike: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        if record.kind != "text":
            alike.setdefault((record.kind, len(record.more)), {})[record.id] = record
    for group in alike.values():
        of: dict[str, list[Record]] = {}
        for record in group.values():
            of.setdefault(record.patient_id, []).append(record)
        if len(of) < 2:
            return None
        names, generator = sorted(of), np.random.default_rng([seed, len(of)])
        row = [record for place in generator.permutation(len(names)) for record in of[names[place]]]
        shift = max(map(len, of.values()))
        for place, record in enumerate(row):
            donor = row[(place + shift) % len(row)]
            if donor.patient_id == record.patient_id:
                others = [other for other in row if other.patient_id != record.patient_id]
                donor = others[int(generator.integers(len(others)))]
            donors[record.id] = donor
    return donors or None


def _answered(
    answerer: Answerer,
    part: Manifest,
    asked: Sequence[_Asked],
    donors: Mapping[str, Record] | None,
    how: Evaluating,
    progress: Progress | None,
) -> _Heard:
    """Ask every question about its own volumes and about the donor's, each volume being looked at once."""
    by_id = {question.id: question for question in asked}
    questions = []
    for question in asked:
        questions.append(Question(f"own {question.id}", part.resolve_all(question.record), question.turns))
        if donors is not None:
            donor = donors.get(question.record.id, question.record)
            questions.append(Question(f"other {question.id}", part.resolve_all(donor), question.turns))
    heard = _Heard()
    found = answerer.answer_each(
        questions, batch=how.batch, closed=how.closed, max_new_tokens=how.max_new_tokens, progress=progress
    )
    for each in found:
        whose, _, name = each.question.id.partition(" ")
        if whose == "other":
            heard.shuffled[name] = each.answer.text
            continue
        heard.own[name] = each.answer
        if len(each.answer.slices) == 1 and len(each.seen) == 1:
            heard.slices.append(_slice_question(by_id[name], each))
    return heard


def _slice_question(question: _Asked, answered: Answered) -> SliceQuestion:
    (slices,) = answered.answer.slices
    real = np.array([each.index is not None for each in slices])
    scores = np.array([each.score for each in slices])[real]
    extent = question.turn.extent_mm
    targets = None
    if extent is not None:
        targets = slice_targets(answered.seen[0].prepared, extent).numpy()[real]
    return SliceQuestion(question.id, question.record.patient_id, question.turn.type, scores, targets)


def _question_prior(training: Manifest | None) -> QuestionPrior | None:
    turns = [
        turn
        for record in (training.records if training is not None else ())
        for dialogue in record.dialogues
        for turn in dialogue.turns
        if turn.answer
    ]
    return question_prior(turns) if turns else None


def _slices(
    answerer: Answerer, questions: Sequence[SliceQuestion], training: Manifest | None, how: Evaluating
) -> SliceReport | None:
    measurable = [each for each in questions if each.targets is not None and 0 < each.targets.sum() < each.targets.size]
    if not measurable:
        return None
    prior = None if training is None else _slice_prior(answerer, training)
    return evaluate_slices(questions, prior, how.bootstrap, how.seed)


def _slice_prior(answerer: Answerer, training: Manifest) -> SlicePrior | None:
    """Return where training answers are to be seen, from some of the training volumes."""
    located = [
        (record, extents)
        for record in training.records
        if record.kind == "volume" and not record.more and (extents := _extents(record))
    ]
    targets = []
    for place in spread_evenly(range(len(located)), PRIOR_RECORDS):
        record, extents = located[place]
        prepared = answerer.processor.contract.prepare(read_channels(training.resolve(record)))
        start, stop = prepared.valid[0]
        found = (slice_targets(prepared, extent).numpy()[start:stop] for extent in extents)
        targets += [each for each in found if each.any()]
    return slice_prior(targets) if targets else None


def _extents(record: Record) -> list[tuple[float, float, float, float, float, float]]:
    turns = (turn for dialogue in record.dialogues for turn in dialogue.turns if turn.answer)
    return [turn.extent_mm for turn in turns if turn.extent_mm is not None]


def _reference(question: _Asked) -> Reference:
    turn = question.turn
    return Reference(
        question.id,
        question.record.patient_id,
        turn.question,
        turn.answer,
        turn.form,
        turn.type,
        turn.choices,
        turn.findings,
    )


def _predictions(
    asked: Sequence[_Asked], heard: _Heard, baselines: Mapping[str, Sequence[str] | None]
) -> Iterator[dict[str, Any]]:
    for place, question in enumerate(asked):
        answer = heard.own[question.id]
        yield {
            "id": question.id,
            "patient_id": question.record.patient_id,
            "type": question.turn.type,
            "form": question.turn.form,
            "question": question.turn.question,
            "answer": question.turn.answer,
            "prediction": answer.text,
            "complete": answer.complete,
            "probabilities": answer.probabilities,
            **{name: said[place] for name, said in baselines.items() if said is not None},
            "slices": [
                [{"index": each.index, "score": round(each.score, 6)} for each in volume] for volume in answer.slices
            ],
        }
