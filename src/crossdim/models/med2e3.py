"""Med-2E3: a volume, a question and a language model, with a score for every slice.

Shi et al., "Med-2E3: A 2D-Enhanced 3D Medical Multimodal Large Language Model", 2024 (arXiv 2411.12783). A 3D encoder
sees the volume, a 2D encoder each of its slices. The question weights the slices (TG-IS,
:mod:`crossdim.fusion.slice_scoring`); the language model reads ``z_I = [z_3D ; sum_j s_j z_2D^j]`` in place of
``<volume>``.

Differs from the authors' code (each behaviour of theirs is an option, see docs/explanation/fidelity.md):

* any number of slices, volumes of a sample, images, and samples of text alone in a batch; either padding side;
* several questions may ask about one volume, which is encoded once (``volume_index``);
* frozen encoders stay in evaluation mode (theirs leave the frozen BERT's dropout on) and build no graph;
* the question is read without the 512 tokens of padding; the second map of the 2D connector follows the weighted sum;
* parameters that no feature depends on (the layers behind the chosen one, pooling heads) are frozen.
"""

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from crossdim.encoders.pretrained import SliceView, encode_slices, freeze_unused, graph_of, learns, volume_tokens
from crossdim.errors import ContractError, nearest
from crossdim.fusion.connectors import Connector, average_pool
from crossdim.fusion.features import TowerFeatures, VisualFeatures, check_index
from crossdim.fusion.slice_scoring import SliceScorer, slice_loss
from crossdim.heads.language import learned_tokens, mean_embedding, positions, splice, trimmed
from crossdim.models.med2e3_config import Med2E3Config

__all__ = [
    "Med2E3Config",
    "Med2E3ForConditionalGeneration",
    "Med2E3Inputs",
    "Med2E3Output",
    "TowerFeatures",
    "VisualFeatures",
]


PARTS = (
    *("vision3d", "vision2d", "connector3d", "connector2d"),
    *("question_encoder", "question_projection", "scorer", "language_model"),
)
"""What can be frozen or trained by itself."""


@dataclass
class Med2E3Output(ModelOutput):
    """Loss, logits, and the scores of the slices.

    Attributes:
        loss: ``answer + slice_loss_weight * slice``.
        losses: The parts without weights.
        logits: ``(batch, tokens, vocabulary)``.
        past_key_values, hidden_states, attentions: Of the language model, if asked for.
        slice_scores: ``(placeholders, slices)``, each row sums to one; None without a 2D encoder.
        slice_logits: The same before the softmax; None where scores have none.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    slice_scores: Tensor | None = None
    slice_logits: Tensor | None = None


class Med2E3Inputs(TypedDict, total=False):
    """Further arguments of :meth:`Med2E3ForConditionalGeneration.forward`.

    Attributes:
        position_ids: ``(batch, tokens)``; by default counted over real tokens.
        volume_index, image_index: ``(placeholders,)``: which volume or image each placeholder shows, in reading order
            over the batch; by default the k-th shows the k-th.
        question_ids: ``(placeholders, length)``: the question that guides each volume's scores, in the ids of the
            question encoder (of the language model for ``llm_mean``).
        question_mask: 1 for a real token of these.
        padded_slices: ``(volumes, slices)``, True where a slice is padding and gets no score.
        slice_targets: ``(placeholders, slices)``: 1 for a slice that shows the answer, 0 for another one, -1 or NaN
            where nothing is known.
        tower: Encoder features, in place of volumes and images.
        visual: Connected features, in place of all these.
        use_cache: Whether to return the language model's cache.
        num_items_in_batch: Learned tokens of the optimiser step, which the Trainer counts.
    """

    position_ids: Tensor | None
    volume_index: Tensor | None
    image_index: Tensor | None
    question_ids: Tensor | None
    question_mask: Tensor | None
    padded_slices: Tensor | None
    slice_targets: Tensor | None
    tower: TowerFeatures | None
    visual: VisualFeatures | None
    use_cache: bool | None
    num_items_in_batch: Any
    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None


class Med2E3ForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Volumes, images and text → text.

    volume → 3D encoder → pooling → connector → ``z_3D``; its slices → 2D encoder → connector; question → scores →
    weighted sum ``z_2D``; text with ``[z_3D ; z_2D]`` at each ``<volume>`` → language model → logits.
    """

    config_class = Med2E3Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: Med2E3Config) -> None:
        super().__init__(config)
        config.check_parts()
        reads = config.reads_question
        dim = config.get_text_config().hidden_size
        three, two = config.vision3d_config, config.vision2d_config
        self.vision3d: Any = AutoModel.from_config(three) if config.uses_volumes else None
        self.vision2d: Any = AutoModel.from_config(two) if config.uses_slices else None
        self.connector3d: Any = Connector(three.hidden_size, dim) if config.uses_volumes else None
        self.connector2d: Any = Connector(two.hidden_size, dim) if config.uses_slices else None
        self.question_encoder: Any = AutoModel.from_config(config.question_config) if reads else None
        mapping = {"linear": nn.Linear, "mlp": Connector}.get(config.question_feature)
        self.question_projection: Any = mapping(config.question_config.hidden_size, dim) if reads and mapping else None
        weights, key, temperature = config.slice_weights, config.key, config.score_temperature
        scorer = SliceScorer(weights, key, dim, temperature, config.score_top_k, config.score_dropout)
        self.scorer: Any = scorer if config.uses_slices else None
        self.language_model: Any = AutoModelForCausalLM.from_config(config.language_config)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the maps that are ours; the parts initialise themselves."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's embedding."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(new_embeddings)

    def freeze(self, **parts: bool) -> None:
        """Freeze parts (True) or let them be trained (False).

        Frozen encoders stay in evaluation mode and run without a graph. What no feature depends on stays frozen.

        Args:
            **parts: Names among :data:`PARTS`.

        Raises:
            ContractError: No such part.
        """
        for name, frozen in parts.items():
            if name not in PARTS:
                raise ContractError(f"freeze({name}=...)", "no such part", nearest(name, PARTS))
            if (part := getattr(self, name)) is not None:
                part.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Med2E3ForConditionalGeneration":
        """Set training mode; what no feature depends on is frozen, and frozen encoders stay in evaluation mode.

        Args:
            mode: Training or evaluation.
        """
        super().train(mode)
        config = self.config
        if self.vision3d is not None:
            freeze_unused(self.vision3d, "volumes", config.vision3d_layer, config.vision3d_norm)
        if self.vision2d is not None:
            freeze_unused(self.vision2d, "slices", config.vision2d_layer, config.vision2d_norm)
        for part in (self.vision3d, self.vision2d, self.question_encoder):
            if part is not None and not learns(part):
                part.eval()
        return self

    def encode_towers(
        self,
        voxel_values: Float[Tensor, "volumes channels depth height width"] | None = None,
        pixel_values: Float[Tensor, "images image_channels rows columns"] | None = None,
        padded_slices: Bool[Tensor, "volumes depth"] | None = None,
    ) -> TowerFeatures:
        """Encode volumes and images: all that is expensive and independent of the question.

        Args:
            voxel_values: Volumes, slices along the first spatial axis.
            pixel_values: Images.
            padded_slices: True where a slice is padding and gets no score.

        Raises:
            ContractError: Images, but no 2D encoder.
        """
        tokens_3d = tokens_2d = images = None
        rows, config = 0, self.config
        view = SliceView(
            config.vision2d_layer, config.vision2d_norm, config.vision2d_mean, config.vision2d_std, config.slice_chunk
        )
        if voxel_values is not None and self.vision3d is not None:
            grid = self.vision3d.grid(voxel_values)
            with graph_of(self.vision3d):
                tokens = volume_tokens(
                    self.vision3d, voxel_values.to(self.vision3d.dtype), config.vision3d_layer, config.vision3d_norm
                )
                tokens_3d = average_pool(tokens, grid, config.pool_size)
            rows = config.pooled_grid(tuple(voxel_values.shape[2:]))[0]
        if voxel_values is not None and self.vision2d is not None:
            slices = voxel_values.transpose(1, 2)
            tokens_2d = encode_slices(self.vision2d, slices.flatten(0, 1), view).unflatten(0, slices.shape[:2])
        if pixel_values is not None:
            if self.vision2d is None:
                raise ContractError("images", "this model has no 2D encoder", "Use a model with fusion both or 2d_only")
            images = encode_slices(self.vision2d, pixel_values, view)
        return TowerFeatures(tokens_3d, tokens_2d, rows, images, padded_slices)

    def connect(self, tower: TowerFeatures) -> VisualFeatures:
        """Map encoder features to the language model's width.

        Args:
            tower: Output of :meth:`encode_towers`.
        """
        z_3d = None if tower.tokens_3d is None else self.connector3d(tower.tokens_3d)
        hidden = None if tower.tokens_2d is None else self.connector2d.hidden(tower.tokens_2d)
        images = None if tower.images is None else self.connector2d(tower.images)
        return VisualFeatures(z_3d, hidden, tower.rows, images, tower.padded)

    def encode_question(
        self,
        question_ids: Int[Tensor, "placeholders length"],
        question_mask: Int[Tensor, "placeholders length"] | None = None,
    ) -> Float[Tensor, "placeholders dim"]:
        """Return the text feature that guides the slice scores.

        Args:
            question_ids: Questions in the ids of the question encoder (of the language model for ``llm_mean``).
            question_mask: 1 for a real token.
        """
        ids, mask = trimmed(question_ids, question_mask)
        if self.question_encoder is None:
            return mean_embedding(self.get_input_embeddings()(ids), mask)
        with graph_of(self.question_encoder):
            feature = self.question_encoder(input_ids=ids, attention_mask=mask).pooler_output
        return self.question_projection(feature)

    def fuse(
        self,
        visual: VisualFeatures,
        volume_index: Int[Tensor, " placeholders"] | None = None,
        question: Float[Tensor, "questions dim"] | None = None,
    ) -> tuple[
        Float[Tensor, "placeholders tokens dim"],
        Float[Tensor, "placeholders slices"] | None,
        Float[Tensor, "placeholders slices"] | None,
    ]:
        """Weight the slices and return what the language model reads at each placeholder.

        Args:
            visual: Output of :meth:`connect`.
            volume_index: Which volume each placeholder shows; by default the k-th shows the k-th.
            question: Text feature of each placeholder.

        Returns:
            ``z_I``, the scores, and the scores' logits.

        Raises:
            ContractError: A question is missing, or an index is out of range.
        """
        some = visual.z_3d if visual.z_3d is not None else visual.hidden_2d
        assert some is not None
        if volume_index is None:
            volume_index = torch.arange(visual.volumes, device=some.device)
        volume_index = volume_index.to(some.device)
        check_index(volume_index, visual.volumes, question, self.config.uses_question)
        z_2d: Any = None
        scores = logits = None
        if visual.hidden_2d is not None:
            z_2d, scores, logits = self.scorer(visual, self.connector2d.fc2, question, volume_index)
        if self.config.fusion == "2d_only":
            return z_2d, scores, logits
        assert visual.z_3d is not None
        z_3d = visual.z_3d[volume_index]
        return (z_3d if z_2d is None else torch.cat([z_3d, z_2d.to(z_3d)], dim=1)), scores, logits

    def embed(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        visual: VisualFeatures | None = None,
        volume_index: Int[Tensor, " placeholders"] | None = None,
        question: Float[Tensor, "questions dim"] | None = None,
        image_index: Int[Tensor, " image_placeholders"] | None = None,
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "placeholders slices"] | None]:
        """Return the language model's input, visual tokens in place, and the slice scores.

        Args:
            input_ids: Text and placeholders.
            visual: Output of :meth:`connect`; None for text alone.
            volume_index: Which volume each volume placeholder shows.
            question: Text feature of each volume placeholder.
            image_index: Which image each image placeholder shows.

        Raises:
            ContractError: Placeholders and volumes or images differ in number.
        """
        embeds, scores, _ = self._embed(input_ids, visual, volume_index, question, image_index)
        return embeds, scores

    def _embed(
        self,
        input_ids: Tensor,
        visual: VisualFeatures | None,
        volume_index: Tensor | None,
        question: Tensor | None,
        image_index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        of_volume, of_image = input_ids == self.config.volume_token_id, input_ids == self.config.image_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(of_volume | of_image, 0))
        z_i = scores = logits = images = None
        if visual is not None and visual.volumes:
            z_i, scores, logits = self.fuse(visual, volume_index, question)
        if visual is not None and visual.images is not None:
            images = visual.images if image_index is None else visual.images[image_index]
        embeds = splice(splice(embeds, of_volume, z_i, "volume"), of_image, images, "image")
        return embeds, scores, logits

    def _look(self, input_ids: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embed text and what it shows, from the arguments of forward; visual ones are taken out of ``given``."""
        visual, tower = given.pop("visual", None), given.pop("tower", None)
        shown = [given.pop(name, None) for name in ("voxel_values", "pixel_values", "padded_slices")]
        ids, mask = given.pop("question_ids", None), given.pop("question_mask", None)
        volume_index, image_index = given.pop("volume_index", None), given.pop("image_index", None)
        if visual is None and tower is None and any(values is not None for values in shown):
            tower = self.encode_towers(*shown)
        if visual is None and tower is not None:
            visual = self.connect(tower.to(self.device))
        question = self.encode_question(ids, mask) if ids is not None and self.config.uses_question else None
        return self._embed(input_ids, visual, volume_index, question, image_index)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Float[Tensor, "batch tokens dim"] | None = None,
        past_key_values: Any = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        voxel_values: Float[Tensor, "volumes channels depth height width"] | None = None,
        pixel_values: Float[Tensor, "images image_channels rows columns"] | None = None,
        **kwargs: Unpack[Med2E3Inputs],
    ) -> Med2E3Output:
        """Read text, volumes and images; see :class:`Med2E3Inputs` for the further arguments.

        Args:
            input_ids: Text, with as many placeholders as a volume or image has tokens.
            attention_mask: 1 for a real token, padding on either side; cached tokens included.
            inputs_embeds: What :meth:`embed` returned, in place of ``input_ids`` and everything visual.
            past_key_values: The language model's cache of what came before.
            labels: Token ids to learn, -100 elsewhere.
            voxel_values: Volumes, slices along the first spatial axis.
            pixel_values: Images.
            **kwargs: See :class:`Med2E3Inputs`; others go to the language model.

        Raises:
            ContractError: Placeholders and volumes or images differ in number, or a question is missing.
        """
        given: dict[str, Any] = {**kwargs, "voxel_values": voxel_values, "pixel_values": pixel_values}
        items, targets = given.pop("num_items_in_batch", None), given.pop("slice_targets", None)
        scores = logits = None
        if inputs_embeds is None:
            assert input_ids is not None, "give input_ids or inputs_embeds"
            inputs_embeds, scores, logits = self._look(input_ids, given)
        if attention_mask is not None and attention_mask.ndim == 2 and given.get("position_ids") is None:
            given["position_ids"] = positions(attention_mask, inputs_embeds.shape[1])
        given = {name: value for name, value in given.items() if value is not None and name != "return_dict"}
        output = self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=past_key_values, **given
        )
        losses: dict[str, Tensor] = {}
        loss = None
        if labels is not None:
            vocabulary = output.logits.shape[-1]
            loss = self.loss_function(output.logits, labels, vocab_size=vocabulary, num_items_in_batch=items)
            losses["answer"] = loss
        if targets is not None and logits is not None:
            losses["slice"] = slice_loss(logits, targets)
            # A step that sums over micro-batches weights each by its share of the learned tokens.
            share = 1 if items is None or labels is None else learned_tokens(labels) / items
            extra = self.config.slice_loss_weight * share * losses["slice"]
            loss = extra if loss is None else loss + extra
        return Med2E3Output(
            loss=loss,
            losses=losses or None,
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            slice_scores=scores,
            slice_logits=logits,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """Answer: greedy, sampled, by beams or streamed, with the arguments of transformers' ``generate``.

        Volumes and images are looked at once, before the first token. The prompt comes back before the answer;
        its placeholders read as padding.

        Args:
            inputs: ``input_ids``.
            generation_config: How to generate; this model's when left out.
            **kwargs: Arguments of :meth:`forward` and of transformers' ``generate``.
        """
        unused = ("labels", "slice_targets")
        given = {name: value for name, value in kwargs.items() if value is not None and name not in unused}
        input_ids = given.pop("input_ids", inputs)
        if input_ids is not None:
            embeds = given.pop("inputs_embeds", None)
            given["inputs_embeds"] = self._look(input_ids, given)[0] if embeds is None else embeds
            shown = (input_ids == self.config.volume_token_id) | (input_ids == self.config.image_token_id)
            filler = getattr(self.config.get_text_config(), "pad_token_id", None)
            given["input_ids"] = input_ids.masked_fill(shown, filler or 0)
            given.setdefault("attention_mask", torch.ones_like(input_ids))
        if generation_config is not None:
            return self.language_model.generate(generation_config=generation_config, **given)
        self.language_model.generation_config = self.generation_config
        return self.language_model.generate(**given)
