"""3DETR: boxes from points, with a transformer that begins as PiMAE was pre-trained, and with an image if wanted.

Misra, Girdhar and Joulin, "An End-to-End Transformer Model for 3D Object Detection", ICCV 2021; as the detector of Chen
et al., "PiMAE: Point Cloud and Image Interactive Masked Autoencoders for 3D Object Detection", CVPR 2023.

points → balls or groups → tokens → point encoder ┐
                                                  ├ shared encoder → memory ┐
image → patches → image encoder ──────────────────┘                         ├ decoder → heads → boxes
places of some tokens → queries ────────────────────────────────────────────┘

Differs from the authors' code: tokens, positions and image branch of PiMAE can come along (theirs moves the layers of
two encoders and drops the rest); queries are the first tokens instead of a second farthest-point sampling, which
chooses the same; yaws are anticlockwise (see :mod:`crossdim.heads.detection3d`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from crossdim.encoders.cross_attention import DecoderLayer, TransformerDecoder
from crossdim.encoders.transformer import TransformerEncoder, TransformerLayer
from crossdim.errors import ContractError
from crossdim.fusion.joint import JointEncoder
from crossdim.heads.detection3d import BoxHeads, scene_extent
from crossdim.heads.matching import Labels, box_targets, detection_losses, match, weighted_sum
from crossdim.models.detr3d_config import Detr3dConfig, Detr3dForObjectDetectionOutput, Detr3dModelOutput
from crossdim.tokens.abstraction import PointwiseMLP, SetAbstraction, cut_balls
from crossdim.tokens.grid import embed_patches, grid_of, pair, patchify
from crossdim.tokens.points import MiniPointNet, PointPositions, group_cloud
from crossdim.tokens.positions import FourierPositions, sincos_table

_LAYERS = ("points_encoder.layers", "joint.layers")
"""Stacks that points go through one after the other, in PiMAE and here."""


class Transfer(NamedTuple):
    """What came from a pre-trained model.

    Attributes:
        moved: Name in the pre-trained model → name here.
        fresh: Names here that nothing was moved to.
    """

    moved: dict[str, str]
    fresh: tuple[str, ...]


class Detr3dPreTrainedModel(PreTrainedModel):
    """What the detector's models share: initialisation and Hugging Face's switches."""

    config_class = Detr3dConfig
    base_model_prefix = "detr3d"
    main_input_name = "points"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer", "DecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as released: maps of layers and patches xavier, others as PyTorch does."""
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for buffer, value in zip(module.buffers(), (0, 1, 0), strict=False):
                init.constant_(buffer, value)
        elif isinstance(module, TransformerLayer | DecoderLayer):
            for name, each in module.named_modules():
                if isinstance(each, nn.Linear):
                    init.xavier_uniform_(each.weight)
                    if "attention" in name and each.bias is not None:
                        init.zeros_(each.bias)
        elif isinstance(module, nn.Conv2d):
            inputs = module.weight[0].numel()
            bound = (6 / (inputs + module.out_channels)) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            assert module.bias is not None
            init.uniform_(module.bias, -(inputs**-0.5), inputs**-0.5)
        elif isinstance(module, FourierPositions):
            init.normal_(module.waves)
        else:
            for parameter in module.parameters(recurse=False):
                init.zeros_(parameter)


class QueryProjection(nn.Module):
    """Two linear maps with ReLU behind each; codes of places → what the decoder is told of them.

    Args:
        width: Of both.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, codes: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Map every code by itself."""
        return F.relu(self.fc2(F.relu(self.fc1(codes))))


class Detr3dModel(Detr3dPreTrainedModel):
    """Everything but the heads: scenes → features of queries."""

    def __init__(self, config: Detr3dConfig) -> None:
        super().__init__(config)
        dim, width = config.hidden_size, config.decoder_hidden_size
        if config.tokenizer == "groups":
            self.point_tokens = MiniPointNet(dim, config.point_hidden_size)
            self.point_positions = PointPositions(dim)
        else:
            self.set_abstraction = SetAbstraction(dim)
        self.points_embedding = nn.Parameter(torch.zeros(1, 1, dim)) if config.tells_modalities else None
        if config.image:
            patch = pair(config.patch_size)
            self.patch_embed = nn.Conv2d(config.num_channels, dim, patch, patch)
            self.image_embedding = nn.Parameter(torch.zeros(1, 1, dim))
            self.image_encoder = TransformerEncoder(config.image_shape(), norm=False)
        self.points_encoder = TransformerEncoder(config.points_shape(), norm=False)
        joint = config.joint_num_hidden_layers > 0
        self.joint = JointEncoder(config.joint_shape(), class_token=config.tells_modalities) if joint else None
        self.projection = PointwiseMLP((dim, dim, dim, width))
        self.positions = FourierPositions(width)
        self.query_projection = QueryProjection(width)
        self.decoder = TransformerDecoder(config.decoder_shape())
        self.post_init()

    def forward(
        self,
        points: Float[Tensor, "batch points 3"],
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
        scene_range: Float[Tensor, "batch 2 3"] | None = None,
        fps_start: int = 0,
    ) -> Detr3dModelOutput:
        """Look for boxes.

        Args:
            points: Clouds in scene metres, z up.
            pixel_values: Images of the same scenes, sizes multiples of the patch; None leaves them out.
            scene_range: Lowest and highest corner of each scene; None takes the config's, or else the points' own.
            fps_start: Place of the first token in the cloud.

        Raises:
            ContractError: Points or images do not fit the model.
        """
        places, index, tokens = self.tokenise(points, fps_start)
        if scene_range is None and self.config.scene_range is not None:
            scene_range = points.new_tensor(self.config.scene_range).expand(len(points), 2, 3)
        extent = scene_extent(points, scene_range, float(self.config.unit_m))
        output = Detr3dModelOutput(token_places=places, token_index=index, tokens=tokens, extent=extent)
        encoded = self.points_encoder(tokens if self.points_embedding is None else tokens + self.points_embedding)
        sets = [encoded]
        if pixel_values is not None:
            output.image_hidden_state = self.encode_image(pixel_values)
            sets.insert(0, output.image_hidden_state)
        output.encoded = encoded if self.joint is None else self.joint(sets).sets[-1]
        output.memory = self.projection(output.encoded)
        output.query_places = places[:, : self.config.num_queries]
        codes = self.positions(extent.shares(places)).to(output.memory)
        output.query_positions = self.query_projection(codes[:, : self.config.num_queries])
        start = output.memory[:, : self.config.num_queries] if self.config.query_features == "tokens" else None
        output.hidden_states = self.decoder(output.memory, output.query_positions, codes, start)
        output.last_hidden_state = output.hidden_states[-1]
        return output

    def tokenise(
        self, points: Float[Tensor, "batch points 3"], fps_start: int = 0
    ) -> tuple[Float[Tensor, "batch tokens 3"], Int[Tensor, "batch tokens"], Float[Tensor, "batch tokens dim"]]:
        """Return places, points at these places, and tokens of clouds, spread over each of them.

        Args:
            points: In scene metres.
            fps_start: Place of the first token in the cloud.

        Raises:
            ContractError: A coordinate is not a number, or there are too few points.
        """
        config, precision = self.config, self.dtype
        sizes, choice = (config.num_groups, config.group_size), (fps_start, config.skip_points_near_origin)
        if config.tokenizer == "groups":
            with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
                groups = group_cloud(points, *sizes, *choice)
            tokens = self.point_tokens((groups.neighbourhoods / config.unit_m).to(precision))
            tokens = tokens + self.point_positions((groups.centers / config.unit_m).to(precision))
            return groups.centers, groups.center_index, tokens
        with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
            balls = cut_balls(points, *sizes, float(config.group_radius), *choice)
        return balls.centers, balls.center_index, self.set_abstraction(balls.offsets.to(precision))

    def encode_image(
        self, pixel_values: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        """Return what the image encoder makes of images.

        Args:
            pixel_values: Sizes multiples of the patch.

        Raises:
            ContractError: The model takes no images, or none of this size or number of channels.
        """
        config = self.config
        if not config.image or pixel_values.shape[1] != config.num_channels:
            takes = f"takes {config.num_channels} channels" if config.image else "takes no images"
            raise ContractError(
                f"images of shape {tuple(pixel_values.shape)}",
                f"this model {takes}",
                "Prepare the input with the contract saved beside the model",
            )
        patch = pair(config.patch_size)
        table = sincos_table(grid_of(tuple(pixel_values.shape[2:]), patch), config.hidden_size)[None, 1:]
        patches = embed_patches(self.patch_embed, patchify(pixel_values.to(self.patch_embed.weight.dtype), patch))
        return self.image_encoder(patches + table.to(patches) + self.image_embedding)


class Detr3dForObjectDetection(Detr3dPreTrainedModel):
    """The detector: scenes → boxes with a class, a score and a yaw, in scene metres."""

    def __init__(self, config: Detr3dConfig) -> None:
        super().__init__(config)
        self.detr3d = Detr3dModel(config)
        classes = len(config.id2label or ())
        sizes = config.decoder_hidden_size, classes, config.angle_bins
        self.box_heads = BoxHeads(*sizes, float(config.head_dropout), float(config.unit_m))
        self.post_init()

    def forward(
        self,
        points: Float[Tensor, "batch points 3"],
        labels: Labels | None = None,
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
        scene_range: Float[Tensor, "batch 2 3"] | None = None,
        fps_start: int = 0,
    ) -> Detr3dForObjectDetectionOutput:
        """Find boxes, and compare them with labels if there are any.

        Args:
            points: Clouds in scene metres, z up.
            labels: For each scene ``boxes`` ``(boxes, 7)`` (centre, full size, yaw) and ``classes`` ``(boxes,)``; a
                scene without objects has none of both.
            pixel_values: Images of the same scenes; None leaves them out.
            scene_range: Lowest and highest corner of each scene; None takes the config's, or else the points' own.
            fps_start: Place of the first token in the cloud.

        Raises:
            ContractError: Points, images or labels do not fit the model, or predictions are no numbers any more.
            GeometryError: A box of the labels has no size or is not finite.
        """
        model = self.detr3d(points, pixel_values, scene_range, fps_start)
        every = self.box_heads(model.hidden_states, model.query_places, model.extent)
        output = Detr3dForObjectDetectionOutput(predictions=every.layer(-1), layer_predictions=every, model=model)
        if labels is None:
            return output
        weights, bins = self.config.weights(), self.config.angle_bins
        with torch.autocast(points.device.type, enabled=False):
            targets = box_targets(labels, model.extent, every.class_logits.shape[-1] - 1, bins)
            assignment = match(every, targets, weights)
            losses = detection_losses(every, targets, assignment, weights)
            output.loss = weighted_sum(losses, weights)
        output.targets, output.assignment, output.layer_losses = targets, assignment, losses
        output.losses = {name: part[-1] for name, part in losses.items()}
        return output

    @torch.no_grad()
    def transfer(
        self, config: PreTrainedConfig, state: Mapping[str, Tensor], official_transfer: bool = False
    ) -> Transfer:
        """Take over what a pre-trained PiMAE has learned; layers keep their order whichever encoder they are in.

        Args:
            config: Of the pre-trained model.
            state: Its weights, under its names.
            official_transfer: Move the layers of its point encoder and its shared encoder and nothing else, whatever
                the number of heads, as released; otherwise everything that has a place here.

        Raises:
            ContractError: The pre-trained model has other sizes, or is no PiMAE.
        """
        weights = {name.removeprefix("pimae."): (name, tensor) for name, tensor in state.items()}
        ours, moved = dict(self.detr3d.named_parameters()) | dict(self.detr3d.named_buffers()), dict[str, str]()
        if not official_transfer:
            _check_fit(config, self.config)
        sources = _sources(config, self.config, ours)
        for name, target in ours.items():
            of_layers = name.startswith(_LAYERS)
            if official_transfer and not of_layers:
                continue
            full, tensor = weights.get(sources.get(name, "") if of_layers else name, ("", None))
            if tensor is None:
                continue
            if tensor.shape != target.shape:
                raise ContractError(
                    f"pre-trained '{full}'",
                    f"has shape {tuple(tensor.shape)} where the detector has {tuple(target.shape)}",
                    "Build the detector with Detr3dConfig.for_pimae",
                )
            target.copy_(tensor)
            moved[full] = f"detr3d.{name}"
        if not moved:
            reason = "holds nothing that a detector could begin with"
            raise ContractError("pre-trained model", reason, "Give the weights of a PiMAE under its own names")
        taken = set(moved.values())
        return Transfer(moved, tuple(name for name in self.state_dict() if name not in taken))


def _check_fit(theirs: PreTrainedConfig, ours: PreTrainedConfig) -> None:
    """Refuse a pre-trained model whose weights would compute something else here."""
    keys = ("hidden_size", "points_num_attention_heads", "joint_num_attention_heads")
    keys += ("num_attention_heads",) * ours.image + ("point_hidden_size",) * (ours.tokenizer == "groups")
    for key in keys:
        pairs = [getattr(config, key) or config.num_attention_heads for config in (theirs, ours)]
        if pairs[0] != pairs[1]:
            raise ContractError(
                f"pre-trained model with {key} {pairs[0]}",
                f"the detector has {pairs[1]}",
                "Build the detector with Detr3dConfig.for_pimae",
            )
    depths = [(config.points_num_hidden_layers, config.joint_num_hidden_layers) for config in (theirs, ours)]
    if ours.image and depths[0] != depths[1]:
        raise ContractError(
            f"pre-trained encoders of {depths[0][0]} and {depths[0][1]} layers",
            f"the detector has {depths[1][0]} and {depths[1][1]}, and the image enters between them",
            "Build the detector with Detr3dConfig.for_pimae",
        )


def _sources(theirs: PreTrainedConfig, ours: PreTrainedConfig, names: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name here → name in PiMAE of the layers that points go through."""
    depths = [(config.points_num_hidden_layers, config.joint_num_hidden_layers) for config in (theirs, ours)]

    def stacks(points: int, joint: int) -> list[str]:
        counts = zip(_LAYERS, (points, joint), strict=True)
        return [f"{stack}.{number}." for stack, count in counts for number in range(count)]

    places = dict(zip(stacks(*depths[1]), stacks(*depths[0]), strict=False))
    return {
        name: there + name.removeprefix(here)
        for name in names
        for here, there in places.items()
        if name.startswith(here)
    }
