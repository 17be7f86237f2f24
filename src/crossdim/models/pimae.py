"""PiMAE: masked autoencoding of points and the image taken of them, with features that cross between the two.

Chen et al., "PiMAE: Point Cloud and Image Interactive Masked Autoencoders for 3D Object Detection", CVPR 2023.

points → groups → mini-PointNet ┐ mask  ┌ point encoder ┐                                 ┌ point decoder → Chamfer, L_x
                                ├ (aligned)             ├ shared encoder → shared decoder ┤
image → patches ────────────────┘       └ image encoder ┘                                 └ image decoder → MSE

What is unusual: which patches are hidden depends on where the hidden groups project, and the hidden groups' tokens also
predict the image decoder's features at the places of their points (L_x; no gradient reaches the image through it).

Differs from the authors' code (each behaviour of theirs is an option, see docs/explanation/fidelity.md): ``complement``
masks are the default (theirs fall back to independent ones); cross-modal features are sampled at (across, down) from
the small map, where a point is in the image (theirs at (down, across) from an enlarged one, with zeros outside); while
training, hidden groups are not embedded. Images of any size and a missing modality are allowed; parameters that theirs
never use do not exist.

The order of the points matters only through the first centre: with the same point at ``fps_start`` (and no two equal
distances) any order gives the same tokens.
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
from crossdim.heads.classification import ClassificationHead, Classifies
from crossdim.heads.point_reconstruction import chamfer_distance, image_places, sample_features
from crossdim.heads.reconstruction import fill_in, masked_mean_squared_error, normalise_patches
from crossdim.masking import Mask, PixelConvention, patch_mask, patches_hit, patches_of, point_mask, visible_first
from crossdim.models.pimae_config import IMAGE_NORM_EPS, PimaeConfig, PimaeForPreTrainingOutput, PimaeModelOutput
from crossdim.tokens.grid import Grid, check_channels, embed_patches, grid_of, pair, patchify
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
        r"^(pimae\.)?(points?_|joint\.)",
        r"^((image|points|joint)_(decoder|mask_token|head)|cross_modal_head|classifier)",
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
            for buffer, value in zip(module.buffers(), (0, 1, 0), strict=False):
                init.constant_(buffer, value)
        elif isinstance(module, nn.Conv2d):
            inputs = module.weight[0].numel()
            bound = (6 / (inputs + module.out_channels)) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            assert module.bias is not None
            init.uniform_(module.bias, -(inputs**-0.5), inputs**-0.5)
        elif isinstance(module, ClassificationHead) and module.thresholds is not None:
            init.copy_(module.thresholds, torch.linspace(1, -1, len(module.thresholds)))
        else:
            for name, parameter in module.named_parameters(recurse=False):
                init.normal_(parameter, std=0.02 if name.endswith("mask_token") else 0.0)
        if isinstance(module, ImageBranch):  # Layers have no parameters of their own, so they are not visited.
            for layer in module.modules():
                if isinstance(layer, TransformerLayer) and layer.mlp.activation == "relu":
                    init.xavier_uniform_(layer.attention.qkv.weight)


class ImageBranch(PimaePreTrainedModel):
    """Patches and the image encoder."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        patch = pair(config.patch_size)
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
        check_channels(pixel_values, self.config.num_channels)
        return grid_of(tuple(pixel_values.shape[2:]), pair(self.config.patch_size))

    def embed_image(
        self, pixel_values: Float[Tensor, "batch channels height width"], mask: Mask | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """Return the tokens of the visible patches with their position codes, before the modality's embedding.

        Args:
            pixel_values: Images.
            mask: Which patches are visible; None for all of them, in raster order. Hidden ones cost nothing.
        """
        table = sincos_table(self.grid(pixel_values), self.config.hidden_size)[None, 1:]
        patches = patchify(pixel_values.to(self.patch_embed.weight.dtype), pair(self.config.patch_size))
        table = table.to(patches).expand(len(patches), -1, -1)
        if mask is not None:
            patches, table = gather_points(patches, mask.ids_keep), gather_points(table, mask.ids_keep)
        return embed_patches(self.patch_embed, patches) + table


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
        tokens = self.embed_image(pixel_values) + self.image_embedding
        hidden = self.image_encoder(tokens, padding_mask=padding_mask)
        if self.joint is not None:
            joint, (hidden,) = self.joint([hidden], [padding_mask])
            if self.config.pooling == "cls":
                return BaseModelOutputWithPooling(hidden, joint[:, 0])
        if padding_mask is None:
            return BaseModelOutputWithPooling(hidden, hidden.mean(dim=1))
        real = ~padding_mask[..., None]
        return BaseModelOutputWithPooling(hidden, (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1))


class PimaeModel(ImageBranch):
    """The three encoders: points, an image, or both → tokens and one feature of the scene."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.point_tokens = MiniPointNet(config.hidden_size, config.point_hidden_size)
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
        precision, unit = self.patch_embed.weight.dtype, self.config.unit_m
        tokens = self.point_tokens((shown.neighbourhoods / unit).to(precision))
        tokens = tokens + self.point_positions((shown.centers / unit).to(precision))
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
            output.image_hidden_state = self.image_encoder(
                self.embed_image(pixel_values, image_mask) + self.image_embedding
            )
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
        self.image_head = nn.Linear(width, prod(pair(config.patch_size)) * config.num_channels)
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
        camera, config = self._camera(points, pixel_values, projection, frame_size), self.config
        groups = hidden = image_mask = hit = grid = None
        if points is not None:
            groups = self.pimae.group(points, fps_start)
            if points_mask is None:
                if points_noise is None:
                    points_noise = torch.rand(groups.centers.shape[:2], device=points.device)
                points_mask = point_mask(config.points_masking, groups.centers, points_noise, config.points_mask_ratio)
            order, visible = visible_first(points_mask)
            hidden = groups.take(order[:, visible:])
        if pixel_values is not None:
            grid = self.pimae.grid(pixel_values)
            image_mask, hit = self._image_mask(pixel_values, image_noise, hidden, camera)
        output = self._decode(self.pimae(groups, pixel_values, points_mask, image_mask), grid)
        output.hit, losses = hit, dict[str, Tensor]()
        if hidden is not None and output.points_prediction is not None:
            output.points_target = hidden.neighbourhoods
            found, sought = (
                each.flatten(0, 1) / config.unit_m for each in (output.points_prediction, output.points_target)
            )
            losses["points"] = chamfer_distance(found, sought, config.chamfer)
        if pixel_values is not None and image_mask is not None and output.image_prediction is not None:
            target = patchify(pixel_values, pair(config.patch_size))
            output.image_target = target = normalise_patches(target) if config.norm_pix_loss else target
            losses["image"] = masked_mean_squared_error(output.image_prediction, target, image_mask.mask)
        if pixel_values is not None and hidden is not None and camera is not None and self.cross_modal_head is not None:
            losses["cross_modal"] = self._cross_modal_loss(output, hidden, pixel_values, camera)
        output.losses = losses
        output.loss = torch.stack([getattr(config, f"{name}_weight") * part for name, part in losses.items()]).sum()
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

    def _image_mask(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch patches"] | Mask | None,
        hidden: PointGroups | None,
        camera: Camera | None,
    ) -> tuple[Mask, Bool[Tensor, "batch patches"] | None]:
        """Return the mask, and the patches that hidden centres fall into if it is aligned with them."""
        if isinstance(noise, Mask):
            return noise, None
        config, size, hit = self.config, (pixel_values.shape[2], pixel_values.shape[3]), None
        patches = prod(self.pimae.grid(pixel_values))
        if hidden is not None and camera is not None and config.mask_alignment != "independent":
            u, v, _ = image_places(hidden.centers, *camera)
            places = patches_of(u, v, size, pair(config.patch_size), None, config.pixel_convention)
            hit = patches_hit(*places, patches)
        noise = torch.rand(len(pixel_values), patches, device=pixel_values.device) if noise is None else noise
        return patch_mask(noise, config.image_mask_ratio, hit, config.mask_alignment), hit

    def _decode(self, encoded: PimaeModelOutput, grid: Grid | None) -> PimaeForPreTrainingOutput:
        """Fill in what is hidden and predict patches and points."""
        output, sets = PimaeForPreTrainingOutput(encoded=encoded), []
        assert encoded.last_hidden_state is not None
        latent = encoded.last_hidden_state[:, 1:]
        if grid is not None and encoded.image_mask is not None:
            kept, order = encoded.image_mask.ids_keep.shape[1], encoded.image_mask.ids_restore
            image = fill_in(self.image_decoder_embed(latent[:, :kept]), self.image_mask_token, prod(grid), order)
            table = sincos_table(grid, self.config.decoder_hidden_size)[None, 1:].to(image)
            sets.append(image + table + self.image_decoder_embedding)
        if encoded.groups is not None and encoded.points_mask is not None:
            order, count = visible_first(encoded.points_mask)
            points = fill_in(self.points_decoder_embed(latent[:, -count:]), self.points_mask_token, order.shape[1])
            centers = gather_points(encoded.groups.centers, order) / self.config.unit_m
            positions = self.points_decoder_positions(centers.to(points))
            sets.append(points + positions + self.points_decoder_embedding)
        output.joint_decoded, parts = self.joint_decoder(sets)
        if encoded.image_mask is not None:
            output.image_features = self.image_decoder(parts[0] + table)
            output.image_prediction = self.image_head(output.image_features)
        if encoded.groups is not None:
            output.points_features = self.points_decoder(parts[-1], positions=positions)[:, count:]
            output.points_prediction = self.points_head(output.points_features).unflatten(-1, (-1, 3))
            output.points_prediction = output.points_prediction * self.config.unit_m
        return output

    def _cross_modal_loss(
        self, output: PimaeForPreTrainingOutput, hidden: PointGroups, pixel_values: Tensor, camera: Camera
    ) -> Float[Tensor, ""]:
        config, features, head = self.config, output.image_features, self.cross_modal_head
        assert features is not None
        assert head is not None
        members = (hidden.neighbourhoods + hidden.centers[:, :, None]).flatten(1, 2)
        output.places = places = image_places(members, *camera)
        grid = self.pimae.grid(pixel_values)
        if config.cross_modal_target == "pixels":
            features, grid = pixel_values.flatten(2).transpose(1, 2), tuple(pixel_values.shape[2:])
        released = config.pixel_convention == "released"
        options = (config.cross_modal_sampling, config.cross_modal_axes, released)
        output.cross_modal_target = sample_features(features.detach(), grid, places, *options)
        prediction = head(output.points_features).unflatten(-1, (config.group_size, -1)).flatten(1, 2)
        output.cross_modal_prediction = prediction
        output.cross_modal_counts = torch.ones_like(places.u) if released else places.inside.to(places.u)
        return masked_mean_squared_error(prediction, output.cross_modal_target, output.cross_modal_counts)


class PimaeForImageClassification(Classifies, PimaePreTrainedModel):
    """The image branch over all patches and one fully connected layer; images → logits."""

    def __init__(self, config: PimaeConfig) -> None:
        super().__init__(config)
        self.pimae = PimaeImageModel(config)
        self.make_classifier(config.hidden_size, IMAGE_NORM_EPS if config.pooling == "mean" else None)
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
        return self.classify(self.pimae(pixel_values, padding_mask=padding_mask).pooler_output, labels)
