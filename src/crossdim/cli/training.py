"""`crossdim pretrain`, `crossdim finetune` and `crossdim instruct`: a recipe, data, and a folder for the run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from crossdim.cli.console import Json, examples, print_json

Run = Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run; the same command resumes it.")]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", metavar="FILE|NAME", help="A YAML file, or a recipe that comes with crossdim.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe (repeat).")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim pretrain scans/ --out runs/pretrained",
            "crossdim pretrain scans.jsonl --out runs/tiny --recipe pretrain-tiny --set optimisation.epochs=20",
            "crossdim pretrain scans.jsonl --out runs/mine --recipe mine.yaml",
            "crossdim pretrain pimae scenes/ --out runs/scenes --recipe pimae-tiny",
        )
    )(pretrain)
    app.command(
        epilog=examples(
            "crossdim finetune graded.jsonl --from runs/pretrained --task grade --out runs/grader",
            "crossdim finetune graded.jsonl --from runs/pretrained --recipe finetune-linear --out runs/probe",
            "crossdim finetune graded.jsonl --from runs/pretrained --set shots=5 --out runs/five_of_each",
            "crossdim finetune graded.jsonl --out runs/from_scratch",
            "crossdim finetune detect scenes.jsonl --from runs/scenes --out runs/detector --recipe detect-tiny",
        )
    )(finetune)
    app.command(
        epilog=examples(
            "crossdim instruct questions.jsonl --out runs/answers --recipe instruct-tiny",
            "crossdim instruct questions.jsonl --out runs/smol --recipe instruct-tiny --llm smollm2",
            "crossdim instruct captions.jsonl --out runs/stage1 --recipe med2e3-stage1",
            "crossdim instruct questions.jsonl --out runs/stage2 --recipe med2e3-stage2 --from runs/stage1",
        )
    )(instruct)


def pretrain(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[uni4eye|pimae] DATA",
            help="What is trained, and a folder or a manifest. Without the word the recipe says it, or else the data: "
            "scenes train pimae, images and volumes uni4eye.",
        ),
    ],
    out: Run,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Pre-train an encoder on images and volumes together, or on scenes of points and images; no labels are needed.

    Records of validation and test parts are not trained on. The run can be stopped at any time; the same command goes
    on from the last checkpoint.
    """
    from crossdim.training.pretraining import pretrain_on

    *word, data = what
    folder = pretrain_on(
        Path(data), out, system=" ".join(word), recipe=recipe, overrides=overrides or (), silent=as_json
    )
    if as_json:
        print_json({"run": str(folder)})


def finetune(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[classify|detect] MANIFEST",
            help="What is learned, and a manifest with labels and parts. Without the word the recipe or --task says "
            "it, or else the data: scenes with boxes train a detector, all others a classifier.",
        ),
    ],
    out: Run,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="A pre-training run, a detector to go on from, or a converted model."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of the manifest; needed if there are several.")] = None,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a classifier on labels, or a detector on boxes in scenes; without `--from`, from random weights.

    The checkpoint that is best on the validation part is kept; the test part is evaluated once, at the end.
    """
    from crossdim.training.finetuning import finetune_on

    *word, manifest = what
    folder = finetune_on(
        Path(manifest),
        out,
        encoder,
        aim=" ".join(word),
        task=task,
        recipe=recipe,
        overrides=overrides or (),
        silent=as_json,
    )
    if as_json:
        print_json({"run": str(folder)})


def instruct(
    manifest: Annotated[Path, typer.Argument(help="A manifest with dialogues and parts.")],
    out: Run,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="A model to go on from, such as the run of stage 1.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(metavar="NAME", help="Language model: scratch, smollm2, a folder, or a hub name.")
    ] = None,
    recipe: RecipeName = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train a model that answers questions about volumes and images; without `--from`, from the recipe's parts.

    The checkpoint with the smallest loss on the validation part is kept. The run can be stopped at any time; the same
    command goes on from the last checkpoint.
    """
    from crossdim.training import instruct as room
    from crossdim.training.recipe_files import load_recipe
    from crossdim.training.recipe_instruct import InstructRecipe

    settings = [*(overrides or ()), *([f"language.source={json.dumps(llm)}"] if llm else ())]
    folder = room.run(manifest, out, load_recipe(recipe, InstructRecipe, settings), start, silent=as_json)
    if as_json:
        print_json({"run": str(folder)})
