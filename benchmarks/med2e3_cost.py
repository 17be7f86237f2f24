"""What a question costs Med-2E3 in real sizes: everything anew for each question, or ours first, or ours next.

    python -m benchmarks.med2e3_cost                     # one JSON in benchmarks/results/med2e3_cost/

Random weights of the released sizes (SigLIP-large on 32 slices of 256 x 256, M3D-CLIP's ViT-B, connectors of width
3,072, BERT-base and the scores; the language model is left out, since it costs the same each time). Three ways, taken
in turn so that whatever else the machine does falls on all:

* ``anew``: as released, for every question: both encoders in float32, the connector's second map on all 32 x 256
  tokens, the concatenation of 320 tokens a slice, the question padded to 512 tokens;
* ``first``: ours, for the first question about a volume: encoders in bf16 where the processor has it (the error is
  stated), the second map after the weighted sum, the question in its own length;
* ``next``: ours, for further questions about the same volume.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

import crossdim.models.auto  # noqa: F401 - registers the 3D encoder
from crossdim.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration
from crossdim.training.provenance import git_commit

OUT = Path(__file__).parent / "results" / "med2e3_cost" / "cost.json"
SLICES, SIDE, QUESTION, PADDED = 32, 256, 16, 512


def build(seed: int) -> Med2E3ForConditionalGeneration:
    """Return the released sizes with random weights and a language model that is only as wide as the real one.

    Args:
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    language = {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 3072,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }
    return Med2E3ForConditionalGeneration(Med2E3Config.preset("released", language_config=language)).eval()


def anew(model: Med2E3ForConditionalGeneration, volume: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
    """Return (z_I, scores) the way the released code computes them, for one question.

    Args:
        model: With all parts.
        volume: ``(1, 1, slices, height, width)``.
        question: ``(1, length)``.
    """
    tower = model.encode_towers(volume)
    z_3d, z_2d = model.connector3d(tower.tokens_3d), model.connector2d(tower.tokens_2d)
    padded = F.pad(question, (0, PADDED - question.shape[1]))
    mask = (torch.arange(PADDED) < question.shape[1]).long()[None]
    text = model.question_projection(model.question_encoder(input_ids=padded, attention_mask=mask).pooler_output)
    rows = z_3d.unflatten(1, (tower.rows, -1)).repeat_interleave(SLICES // tower.rows, dim=1)
    keys = torch.cat([rows, z_2d], dim=2).mean(dim=2)
    scores = torch.softmax((keys @ text[..., None])[..., 0] / model.config.score_temperature, dim=1)
    summed = (scores[..., None, None] * z_2d).sum(dim=1)
    return torch.cat([z_3d, summed], dim=1), scores


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes.

    Args:
        work: What to call.
    """
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(repeats: int, seed: int) -> dict[str, object]:
    """Return times, ratios and errors.

    Args:
        repeats: Of each way.
        seed: Of weights, volume and questions.
    """
    model = build(seed)
    generator = torch.Generator().manual_seed(seed)
    volume = torch.rand(1, 1, SLICES, SIDE, SIDE, generator=generator)
    question, other = torch.randint(1000, 30000, (2, 1, QUESTION), generator=generator)
    index = torch.zeros(1, dtype=torch.long)

    def look() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return model.encode_towers(volume)

    def connect(tower: object) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return model.connect(tower)

    def ask(visual: object, words: Tensor, half: bool = True) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return model.fuse(visual, index, model.encode_question(words))[:2]

    visual = connect(look())
    times: dict[str, list[float]] = {"anew": [], "first": [], "next": []}
    for _ in range(repeats):
        times["anew"].append(seconds(lambda: anew(model, volume, question)))
        times["first"].append(seconds(lambda: ask(connect(look()), question)))
        times["next"].append(median(seconds(lambda: ask(visual, other)) for _ in range(5)))
    exact, scores = anew(model, volume, question)
    ours, our_scores = ask(visual, question)
    plain, plain_scores = ask(model.connect(model.encode_towers(volume)), question, half=False)
    middle = {name: median(values) for name, values in times.items()}
    return {
        "seconds": times,
        "median_seconds": middle,
        "first_over_anew": median(f / a for f, a in zip(times["first"], times["anew"], strict=True)),
        "anew_over_next": median(a / n for a, n in zip(times["anew"], times["next"], strict=True)),
        "error_of_bf16": {"z_I": relative(ours, exact), "scores": relative(our_scores, scores)},
        "error_of_the_algebra_in_float32": {"z_I": relative(plain, exact), "scores": relative(plain_scores, scores)},
    }


def relative(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference over the largest value.

    Args:
        value: Ours.
        reference: Theirs.
    """
    return float((value.float() - reference.float()).abs().max() / reference.float().abs().max())


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    document = {
        "benchmark": "med2e3_cost",
        "seed": given.seed,
        "threads": given.threads,
        "processor": platform.processor() or platform.machine(),
        "bf16_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "commit": git_commit(),
        **measure(given.repeats, given.seed),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.out)
    print(json.dumps({key: document[key] for key in ("median_seconds", "first_over_anew", "anew_over_next")}, indent=1))


if __name__ == "__main__":
    main()
