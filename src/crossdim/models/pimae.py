"""PiMAE: masked autoencoding of points and the image taken of them, with features that cross between the two.

Chen et al., "PiMAE: Point Cloud and Image Interactive Masked Autoencoders for 3D Object Detection", CVPR 2023.

points → groups → mini-PointNet ┐ mask  ┌ point encoder ┐                                 ┌ point decoder → Chamfer, L_x
                                ├ (aligned)             ├ shared encoder → shared decoder ┤
image → patches ────────────────┘       └ image encoder ┘                                 └ image decoder → MSE

What is unusual: which patches are hidden depends on where the hidden groups project, and the hidden groups' tokens also
predict the image decoder's features at the places of their points (L_x; no gradient reaches the image through it).

Differs from the authors' code (each behaviour of theirs is an option, see docs/explanation/fidelity.md):

* ``complement`` masks are the default; theirs fall back to independent ones;
* cross-modal features are sampled at (across, down) from the small map, and only where a point is in the image; theirs
  are sampled from an enlarged map at (down, across), and points outside meet zeros;
* while training, hidden groups are not embedded (``embed_hidden_points``); images of any size and a missing modality
  are allowed; parameters that theirs never use do not exist.

Groups depend on the order of the points only through the first centre: for any order with the same point at
``fps_start`` (and no two equal distances) the tokens are the same.
"""

from math import prod

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from crossdim.encoders.transformer import TransformerEncoder, TransformerLayer
from crossdim.errors import ContractError
from crossdim.fusion.joint import JointEncoder
from crossdim.heads.classification import ClassificationHead, Problem, classification_loss, probabilities
from crossdim.heads.point_reconstruction import ImagePlaces, chamfer_distance, image_places, sample_features
from crossdim.heads.reconstruction import masked_mean_squared_error, normalise_patches
from crossdim.masking import (
    Mask,
    PixelConvention,
    aligned_mask,
    block_point_mask,
    mask_by_noise,
    patches_hit,
    patches_of,
    random_point_mask,
    visible_first,
)
from crossdim.models.pimae_config import IMAGE_NORM_EPS, PimaeConfig, PimaeForPreTrainingOutput, PimaeModelOutput
from crossdim.tokens.grid import Grid, grid_of, patchify
from crossdim.tokens.points import MiniPointNet, PointGroups, PointPositions, group_cloud
from crossdim.tokens.positions import sincos_table
from crossdim.tokens.sampling import gather_points

Camera = tuple[Tensor, Tensor, PixelConvention]
"""Projection, size of the frame, and what a pixel is: how :func:`image_places` finds the place of a point."""


class PimaePreTrainedModel(PreTrainedModel):
    """What all PiMAE models share: initialisation and Hugging Face's switches."""

    config_class = PimaeConfig
    base_model_prefix = "pimae"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer"]
    _keys_to_ignore_on_load_unexpected = [
        r"^(pimae\.)?(points?_|joint)",
        r"^((image|points)_(decoder|mask_token|head)|cross_modal_head|classifier)",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as released: linear maps from a truncated N(0, 0.02²), 3DETR's qkv and the patches xavier."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                for buffer, value in zip(module.buffers(), (0, 1, 0), strict=True):
                    init.constant_(buffer, value)
        elif isinstance(module, nn.Conv2d):
            inputs = module.weight[0].numel()
            bound = (6 / (inputs + module.out_channels)) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            assert module.bias is not None
            init.uniform_(module.bias, -(inputs**-0.5), inputs**-0.5)
        elif isinstance(module, TransformerLayer) and module.mlp.activation == "relu":
            init.xavier_uniform_(module.attention.qkv.weight)
        elif isinstance(module, JointEncoder) and module.cls_token is not None:
            init.zeros_(module.cls_token)
        elif isinstance(module, ImageBranch):
            init.zeros_(module.image_embedding)
            if isinstance(module, PimaeModel):
                init.zeros_(module.points_embedding)
        elif isinstance(module, PimaeForPreTraining):
            init.zeros_(module.image_decoder_embedding)
            init.zeros_(module.points_decoder_embedding)
            init.normal_(module.image_mask_token, std=0.02)
            init.trunc_normal_(module.points_mask_token, std=0.02)
        elif isinstance(module, ClassificationHead) and module.thresholds is not None:
            init.copy_(module.thresholds, torch.linspace(1, -1, len(module.thresholds)))


class ImageBranch(PimaePreTrainedModel):
    """Patches and the image encoder."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        patch = config.patch_size
        self.patch_embed = nn.Conv2d(config.num_channels, config.hidden_size, patch, patch)
        self.image_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.image_encoder = TransformerEncoder(config.image_shape(), norm=False)

    def grid(self, pixel_values: Float[Tensor, "batch channels height width"]) -> Grid:
        """Return the number of patches along each axis.

        Args:
            pixel_values: Images.

        Raises:
            ContractError: The channels are not the model's, or the size is no multiple of the patch.
        """
        if pixel_values.shape[1] != self.config.num_channels:
            raise ContractError(
                f"images of shape {tuple(pixel_values.shape)}",
                f"this model takes {self.config.num_channels} channels",
                "Prepare the input with the contract saved beside the model",
            )
        return grid_of(tuple(pixel_values.shape[2:]), self.config.patch_size)

    def embed_image(
        self, pixel_values: Float[Tensor, "batch channels height width"], mask: Mask | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """Return the tokens of the visible patches with their position codes, before the modality's embedding.

        Only visible patches are multiplied.

        Args:
            pixel_values: Images.
            mask: Which patches are visible; None for all of them, in raster order.
        """
        positions = sincos_table(self.grid(pixel_values), self.config.hidden_size)[None, 1:]
        patches = patchify(pixel_values.to(self.patch_embed.weight.dtype), self.config.patch_size)
        positions = positions.to(patches).expand(len(patches), -1, -1)
        if mask is not None:
            patches, positions = gather_points(patches, mask.ids_keep), gather_points(positions, mask.ids_keep)
        kernel = self.patch_embed.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(patches, kernel, self.patch_embed.bias) + positions

    def encode_image(
        self, tokens: Float[Tensor, "batch patches dim"], padding_mask: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch patches dim"]:
        """Add the modality's embedding and apply the image encoder.

        Args:
            tokens: From :meth:`embed_image`.
            padding_mask: True where a patch holds padding only.
        """
        return self.image_encoder(tokens + self.image_embedding, padding_mask=padding_mask)


def _mean(
    hidden: Float[Tensor, "batch tokens dim"], padding_mask: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch dim"]:
    if padding_mask is None:
        return hidden.mean(dim=1)
    return (hidden * ~padding_mask[..., None]).sum(dim=1) / (~padding_mask).sum(dim=1, keepdim=True).clamp_min(1)


class PimaeImageModel(ImageBranch):
    """The image branch alone, as a classifier uses it, with the shared encoder behind it if the config says so."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.joint = JointEncoder(config.joint_shape()) if config.classifier_layers == "joint" else None
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        padding_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: Images, sizes multiples of the patch.
            padding_mask: True where a patch holds padding only.
        """
        hidden = self.encode_image(self.embed_image(pixel_values), padding_mask)
        if self.joint is not None:
            joint = self.joint([hidden], [padding_mask])
            hidden = joint.sets[0]
            if self.config.pooling == "cls":
                return BaseModelOutputWithPooling(hidden, joint.hidden[:, 0])
        return BaseModelOutputWithPooling(hidden, _mean(hidden, padding_mask))


class PimaeModel(ImageBranch):
    """The three encoders: points, an image, or both → tokens and one feature of the scene."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.point_tokens = MiniPointNet(config.hidden_size)
        self.point_positions = PointPositions(config.hidden_size)
        self.points_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.points_encoder = TransformerEncoder(config.points_shape(), norm=False)
        self.joint = JointEncoder(config.joint_shape())
        self.post_init()

    @torch.no_grad()
    def group(self, points: Float[Tensor, "batch points 3"], fps_start: int = 0) -> PointGroups:
        """Return clouds as groups of points, in the points' own precision.

        Args:
            points: In scene metres.
            fps_start: Place of the first centre in the cloud.

        Raises:
            ContractError: A coordinate is not a number, or there are too few points.
        """
        config = self.config
        with torch.autocast(points.device.type, enabled=False):
            return group_cloud(points, config.num_groups, config.group_size, fps_start, config.skip_points_near_origin)

    def embed_points(
        self, groups: PointGroups, visible: Int[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """Return the tokens of groups with their position codes, before the modality's embedding.

        Args:
            groups: From :meth:`group`.
            visible: Which groups are visible; None for all of them.
        """
        everything = self.training and self.config.embed_hidden_points
        shown = groups if visible is None or everything else groups.take(visible)
        precision = self.patch_embed.weight.dtype
        tokens = self.point_tokens(shown.neighbourhoods.to(precision))
        tokens = tokens + self.point_positions(shown.centers.to(precision))
        return gather_points(tokens, visible) if visible is not None and everything else tokens

    def forward(
        self,
        points: Float[Tensor, "batch points 3"] | PointGroups | None = None,
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
        points_mask: Bool[Tensor, "batch groups"] | None = None,
        image_mask: Mask | None = None,
        fps_start: int = 0,
    ) -> PimaeModelOutput:
        """Encode scenes; one modality may be missing.

        Args:
            points: Clouds in scene metres, or their groups.
            pixel_values: Images, sizes multiples of the patch.
            points_mask: True where a group is hidden; None shows all.
            image_mask: Which patches are visible; None shows all.
            fps_start: Place of the first centre in the cloud.

        Raises:
            ContractError: Both modalities are missing, or one does not fit the model.
        """
        output = PimaeModelOutput(points_mask=points_mask, image_mask=image_mask)
        if pixel_values is not None:
            output.image_hidden_state = self.encode_image(self.embed_image(pixel_values, image_mask))
        if points is not None:
            output.groups = points if isinstance(points, PointGroups) else self.group(points, fps_start)
            visible = None
            if points_mask is not None:
                order, count = visible_first(points_mask)
                visible = order[:, :count]
            tokens = self.embed_points(output.groups, visible)
            output.points_hidden_state = self.points_encoder(tokens + self.points_embedding)
        sets = [each for each in (output.image_hidden_state, output.points_hidden_state) if each is not None]
        output.last_hidden_state = self.joint(sets).hidden
        output.pooler_output = output.last_hidden_state[:, 1:].mean(dim=1)
        return output

    @torch.no_grad()
    def point_attention(
        self,
        points: Float[Tensor, "batch points 3"] | PointGroups,
        pixel_values: Float[Tensor, "batch channels height width"],
        queries: Int[Tensor, " queries"] | None = None,
        layer: int = -1,
    ) -> Float[Tensor, "batch looking patches"]:
        """Return how much groups of points look at each patch of the image in the shared encoder.

        Args:
            points: Clouds in scene metres, or their groups.
            pixel_values: Images of the same scenes.
            queries: Which groups look; None for all.
            layer: Number of the shared encoder's layer; negative numbers count from the last.
        """
        encoded = self(points, pixel_values)
        sets = [encoded.image_hidden_state, encoded.points_hidden_state]
        return self.joint.attention(sets, of=1, over=0, queries=queries, layer=layer)


class PimaeForPreTraining(PimaePreTrainedModel):
    """Three encoders, three decoders and three losses: ``L = L_points + L_image + L_cross``, each with its weight."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.pimae = PimaeModel(config)
        width = config.decoder_hidden_size
        self.image_decoder_embed = nn.Linear(config.hidden_size, width)
        self.points_decoder_embed = nn.Linear(config.hidden_size, width)
        self.image_mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.points_mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.points_decoder_positions = PointPositions(width)
        self.image_decoder_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.points_decoder_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.joint_decoder = JointEncoder(config.joint_decoder_shape(), class_token=False, norm=True)
        self.image_decoder = TransformerEncoder(config.image_decoder_shape())
        self.points_decoder = TransformerEncoder(config.points_decoder_shape())
        self.image_head = nn.Linear(width, prod(config.patch_size) * config.num_channels)
        self.points_head = nn.Linear(width, 3 * config.group_size)
        values = {"features": width, "pixels": config.num_channels, "none": 0}[config.cross_modal_target]
        self.cross_modal_head = nn.Linear(width, config.group_size * values) if values else None
        self.post_init()

    def forward(
        self,
        points: Float[Tensor, "batch points 3"] | None = None,
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
        projection: Float[Tensor, "batch 3 4"] | None = None,
        frame_size: Num[Tensor, "batch 2"] | None = None,
        points_mask: Bool[Tensor, "batch groups"] | None = None,
        image_noise: Float[Tensor, "batch patches"] | Mask | None = None,
        points_noise: Float[Tensor, "batch groups"] | None = None,
        fps_start: int = 0,
    ) -> PimaeForPreTrainingOutput:
        """Reconstruct the hidden parts of scenes; a missing modality takes its losses with it.

        Args:
            points: Clouds in scene metres.
            pixel_values: Images, sizes multiples of the patch.
            projection: From scene metres to (column * depth, row * depth, depth) of the frame the camera took.
            frame_size: (height, width) of this frame in pixels; the image may be stretched to another size.
            points_mask: True where a group is hidden; drawn here if absent.
            image_noise: Mask scores of the patches, or the mask itself; drawn here if absent.
            points_noise: Mask scores of the groups; drawn here if absent.
            fps_start: Place of the first centre in the cloud.

        Raises:
            ContractError: Both modalities are missing, one does not fit the model, or nothing says how they fit.
        """
        camera = self._camera(points, pixel_values, projection, frame_size)
        groups = None if points is None else self.pimae.group(points, fps_start)
        if groups is None:
            points_mask = None
        elif points_mask is None:
            points_mask = self._points_mask(groups, points_noise)
        hidden = None if groups is None or points_mask is None else groups.take(_hidden(points_mask))
        output, image_mask = PimaeForPreTrainingOutput(losses={}), None
        if pixel_values is not None:
            centers = None if camera is None or hidden is None else image_places(hidden.centers, *camera)
            image_mask, output.hit = self._image_mask(pixel_values, image_noise, centers)
        output.encoded = self.pimae(groups, pixel_values, points_mask, image_mask)
        self._decode(output, None if pixel_values is None else self.pimae.grid(pixel_values))
        if hidden is not None:
            self._points_loss(output, hidden)
        if pixel_values is not None:
            self._image_loss(output, pixel_values)
        if pixel_values is not None and hidden is not None and camera is not None:
            self._cross_modal_loss(output, hidden, pixel_values, camera)
        weights = {name: getattr(self.config, f"{name}_weight") for name in output.losses}
        output.loss = torch.stack([weights[name] * part for name, part in output.losses.items()]).sum()
        return output

    def _camera(
        self, points: Tensor | None, pixel_values: Tensor | None, projection: Tensor | None, frame_size: Tensor | None
    ) -> Camera | None:
        """Return how points project into the image, where that matters."""
        if points is None and pixel_values is None:
            raise ContractError("pre-training batch", "holds neither points nor images", "Give one of them or both")
        crossing = self.config.mask_alignment != "independent" or self.config.cross_modal_target != "none"
        if points is None or pixel_values is None or not crossing:
            return None
        if projection is None or frame_size is None:
            raise ContractError(
                "points and images without projection and frame_size",
                "nothing says where the points are in the image",
                "Give both, or set mask_alignment='independent' and cross_modal_target='none'",
            )
        return projection, frame_size, self.config.pixel_convention

    def _points_mask(
        self, groups: PointGroups, noise: Float[Tensor, "batch groups"] | None
    ) -> Bool[Tensor, "batch groups"]:
        if noise is None:
            noise = torch.rand(groups.centers.shape[:2], device=groups.centers.device)
        if self.config.points_masking == "block":
            return block_point_mask(groups.centers, noise, self.config.points_mask_ratio)
        return random_point_mask(noise, self.config.points_mask_ratio)

    def _image_mask(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch patches"] | Mask | None,
        centers: ImagePlaces | None,
    ) -> tuple[Mask, Bool[Tensor, "batch patches"] | None]:
        """Return the mask, and the patches that hidden centres fall into if it is aligned with them."""
        if isinstance(noise, Mask):
            return noise, None
        config, patches = self.config, prod(self.pimae.grid(pixel_values))
        if noise is None:
            noise = torch.rand(len(pixel_values), patches, device=pixel_values.device)
        if centers is None or config.mask_alignment == "independent":
            return mask_by_noise(noise, config.image_mask_ratio), None
        size = (pixel_values.shape[2], pixel_values.shape[3])
        place, inside = patches_of(centers.u, centers.v, size, config.patch_size, None, config.pixel_convention)
        hit = patches_hit(place, inside, patches)
        return aligned_mask(hit, noise, config.image_mask_ratio, config.mask_alignment), hit

    def _decode(self, output: PimaeForPreTrainingOutput, grid: Grid | None) -> None:
        """Fill in what is hidden and predict patches and points."""
        encoded, sets = output.encoded, []
        latent = encoded.last_hidden_state[:, 1:]
        if grid is not None:
            visible = self.image_decoder_embed(latent[:, : encoded.image_hidden_state.shape[1]])
            table = sincos_table(grid, self.config.decoder_hidden_size)[None, 1:].to(visible)
            tokens = _append(visible, self.image_mask_token, table.shape[1])
            tokens = gather_points(tokens, encoded.image_mask.ids_restore)
            sets.append(tokens + table + self.image_decoder_embedding)
        if encoded.groups is not None:
            order, count = visible_first(encoded.points_mask)
            visible = self.points_decoder_embed(latent[:, -count:])
            positions = self.points_decoder_positions(gather_points(encoded.groups.centers, order).to(visible))
            tokens = _append(visible, self.points_mask_token, order.shape[1])
            sets.append(tokens + positions + self.points_decoder_embedding)
        output.joint_decoded, parts = self.joint_decoder(sets)
        if grid is not None:
            output.image_features = self.image_decoder(parts[0] + table)
            output.image_prediction = self.image_head(output.image_features)
        if encoded.groups is not None:
            output.points_features = self.points_decoder(parts[-1], positions=positions)[:, count:]
            output.points_prediction = self.points_head(output.points_features).unflatten(-1, (-1, 3))

    def _points_loss(self, output: PimaeForPreTrainingOutput, hidden: PointGroups) -> None:
        output.points_target = hidden.neighbourhoods
        clouds = output.points_prediction.flatten(0, 1), hidden.neighbourhoods.flatten(0, 1)
        output.losses["points"] = chamfer_distance(*clouds, self.config.chamfer)

    def _image_loss(self, output: PimaeForPreTrainingOutput, pixel_values: Tensor) -> None:
        target = patchify(pixel_values, self.config.patch_size)
        output.image_target = normalise_patches(target) if self.config.norm_pix_loss else target
        mask = output.encoded.image_mask.mask
        output.losses["image"] = masked_mean_squared_error(output.image_prediction, output.image_target, mask)

    def _cross_modal_loss(
        self, output: PimaeForPreTrainingOutput, hidden: PointGroups, pixel_values: Tensor, camera: Camera
    ) -> None:
        if self.cross_modal_head is None:
            return
        config = self.config
        members = (hidden.neighbourhoods + hidden.centers[:, :, None]).flatten(1, 2)
        output.places = places = image_places(members, *camera)
        features, grid = output.image_features, self.pimae.grid(pixel_values)
        if config.cross_modal_target == "pixels":
            features, grid = pixel_values.flatten(2).transpose(1, 2), tuple(pixel_values.shape[2:])
        released = config.pixel_convention == "released"
        output.cross_modal_target = sample_features(
            features.detach(), grid, places, config.cross_modal_sampling, config.cross_modal_axes, released
        )
        prediction = self.cross_modal_head(output.points_features)
        output.cross_modal_prediction = prediction.unflatten(-1, (config.group_size, -1)).flatten(1, 2)
        output.cross_modal_counts = torch.ones_like(places.u) if released else places.inside.to(places.u)
        output.losses["cross_modal"] = masked_mean_squared_error(
            output.cross_modal_prediction, output.cross_modal_target, output.cross_modal_counts
        )


def _hidden(mask: Bool[Tensor, "batch groups"]) -> Int[Tensor, "batch hidden"]:
    order, visible = visible_first(mask)
    return order[:, visible:]


def _append(
    visible: Float[Tensor, "batch visible width"], mask_token: Float[Tensor, "1 1 width"], count: int
) -> Float[Tensor, "batch tokens width"]:
    """Return the visible tokens and as many mask tokens as are missing."""
    hidden = mask_token.to(visible.dtype).expand(len(visible), count - visible.shape[1], -1)
    return torch.cat([visible, hidden], dim=1)


class PimaeForImageClassification(PimaePreTrainedModel):
    """The image branch over all patches and one fully connected layer; images → logits."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.pimae = PimaeImageModel(config)
        problem: Problem = config.problem
        norm_eps = IMAGE_NORM_EPS if config.pooling == "mean" else None
        self.classifier = ClassificationHead(config.hidden_size, len(config.id2label or ()), problem, norm_eps)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        if weights is not None and len(weights) != config.num_labels:
            raise ContractError(
                f"class_weights of length {len(weights)}",
                f"do not match the {config.num_labels} classes",
                "Give one weight per class",
            )
        self.class_weights = weights
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        padding_mask: Bool[Tensor, "batch patches"] | None = None,
        labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"] | None = None,
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: Images.
            padding_mask: True where a patch holds padding only.
            labels: Class indices, or 0/1 per class for multi-label problems.
        """
        logits = self.classifier(self.pimae(pixel_values, padding_mask=padding_mask).pooler_output)
        loss = None
        if labels is not None:
            weights = None if self.class_weights is None else self.class_weights.to(logits.device)
            loss = classification_loss(logits, labels, self.config.problem, self.config.label_smoothing, weights)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def probabilities(self, logits: Float[Tensor, "batch logits"]) -> Float[Tensor, "batch classes"]:
        """Return class probabilities for this model's kind of problem.

        Args:
            logits: Output of :meth:`forward`.
        """
        return probabilities(logits, self.config.problem)
