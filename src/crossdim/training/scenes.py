"""Scenes of a manifest as training samples: points drawn and thinned, an image, the projection, noise for the masks.

A sample depends on (seed, cycle, place) only, so workers, processes and resumption change nothing. The sampling happens
here, in the workers, and not in the training step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from crossdim.datasets.manifest import Manifest, Record
from crossdim.datasets.scenes import load_scene
from crossdim.errors import ContractError, RecipeError
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.grid import pair
from crossdim.tokens.sampling import farthest_points
from crossdim.training.data import Batch, KeptRecords
from crossdim.training.schedule import Draw, Kind
from crossdim.transforms.augment import generator_for
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.scene_augment import SceneAugmentation
from crossdim.transforms.scenes import PreparedScene, SceneContract, collate_scenes, draw_points, prepare_scene


@dataclass(frozen=True, eq=False)
class SceneSample:
    """What one scene contributes to a batch.

    Attributes:
        scene: As many points as the model sees, image and projection, each where there is one.
        image_noise: ``(patches,)`` mask scores, uniform in [0, 1); None without an image.
        points_noise: ``(groups,)`` mask scores, uniform in [0, 1); None without points.
    """

    scene: PreparedScene
    image_noise: Float[Tensor, " patches"] | None
    points_noise: Float[Tensor, " groups"] | None


def thin(points: Float[Tensor, "points 3"], kept: int, skip_near_origin: bool = False) -> Float[Tensor, "kept 3"]:
    """Return points spread over a cloud by farthest-point sampling; too few are repeated one after the other.

    A repeated point changes where no group has its centre, because copies are farthest from nothing.

    Args:
        points: In metres; at least one.
        kept: How many to return.
        skip_near_origin: Whether points near the origin are left out, as in the authors' sampling.
    """
    if len(points) <= kept:
        return points[torch.arange(kept) % len(points)]
    return points[farthest_points(points[None], kept, skip_near_origin=skip_near_origin)[0]]


class SceneDataset(KeptRecords[PreparedScene]):
    """Scenes, read, prepared by the contract, drawn, varied and thinned, with noise for the masks.

    Args:
        manifest: Scenes, and images.
        contract: Its part for scenes is used.
        config: Of the model: patches, groups, and whether points and image have to be laid on one another.
        seed: Of drawn points, augmentation and noise.
        augmentation: What is varied; the default varies nothing.
        cache_bytes: Memory for prepared scenes.

    Raises:
        ContractError: The contract does not know scenes.
    """

    def __init__(
        self,
        manifest: Manifest,
        contract: PreprocessingContract,
        config: PimaeConfig,
        seed: int = 0,
        augmentation: SceneAugmentation | None = None,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(manifest, contract, seed, cache_bytes)
        self.scene = scene_part(contract)
        self.config = config
        self.augmentation = augmentation or SceneAugmentation()

    def read(self, index: int) -> PreparedScene:
        """Return a scene as the contract makes it, with all its points.

        Args:
            index: Place in the manifest.

        Raises:
            ContractError: It does not fit the contract, or its camera is not known and needed.
        """
        record = self.manifest.records[index]
        prepared = prepare_scene(load_scene(self.manifest, record), self.scene)
        if not needs_projection(self.config):
            return replace(prepared, projection=None, frame_size=None)
        if prepared.projection is None and composition_of(record) == "scene":
            raise ContractError(
                f"record '{record.id}'",
                "has points and an image, and no camera that says where a point is in the image",
                "Add its camera, or set masking.alignment=independent and loss.cross_modal_target=none",
            )
        return prepared

    def _sample(self, draw: Draw) -> SceneSample:
        generator = generator_for(self.seed, draw.cycle, draw.place)
        drawn = draw_points(self.prepared(draw.place), self.scene, generator)
        varied = self.augmentation.vary(drawn, generator)
        return SceneSample(
            scene=thinned(varied, self.scene, self.config.skip_points_near_origin),
            image_noise=None if varied.pixel_values is None else torch.rand(self._patches, generator=generator),
            points_noise=None if varied.points is None else torch.rand(self.config.num_groups, generator=generator),
        )

    @property
    def _patches(self) -> int:
        assert self.scene.image is not None
        return prod(self.scene.image.size) // prod(pair(self.config.patch_size))


def thinned(prepared: PreparedScene, contract: SceneContract, skip_near_origin: bool = False) -> PreparedScene:
    """Return a scene with as many points as the model sees.

    Args:
        prepared: With drawn points, or without points.
        contract: Knows how many.
        skip_near_origin: As for :func:`thin`.
    """
    if prepared.points is None or contract.points is None:
        return prepared
    return replace(prepared, points=thin(prepared.points, contract.points.kept, skip_near_origin))


def needs_projection(config: PimaeConfig) -> bool:
    """Return whether a model has to know where points are in the image while it is pre-trained.

    Args:
        config: Of the model.
    """
    return config.mask_alignment != "independent" or config.cross_modal_target != "none"


def scene_part(contract: PreprocessingContract) -> SceneContract:
    """Return the part of a contract that is for scenes.

    Args:
        contract: Of a model.

    Raises:
        ContractError: There is none.
    """
    if contract.scene is None:
        raise ContractError(
            "contract", f"knows no scenes ({contract.source})", "Give a contract.json of crossdim pretrain pimae"
        )
    return contract.scene


def collate_samples(samples: Sequence[SceneSample]) -> Batch:
    """Stack samples of one composition into the arguments of ``PimaeForPreTraining.forward``.

    Args:
        samples: All with the same parts.
    """
    batch: Batch = collate_scenes([sample.scene for sample in samples])
    for name in ("image_noise", "points_noise"):
        found = [value for value in (getattr(sample, name) for sample in samples) if value is not None]
        if found:
            batch[name] = torch.stack(found)
    return batch


def composition_of(record: Record) -> Kind:
    """Return what of a scene there is: ``scene`` for points and an image, or ``points``, or ``image``.

    Args:
        record: Of a manifest.

    Raises:
        RecipeError: The record is neither a scene nor an image.
    """
    if record.kind == "image":
        return "image"
    if record.scene is None:
        raise RecipeError(
            f"record '{record.id}'",
            f"is of kind '{record.kind}', and this training is on scenes and images",
            "Take it out of the manifest, or pre-train with: crossdim pretrain uni4eye",
        )
    if record.scene.image is None:
        return "points"
    return "image" if record.scene.points is None and record.scene.depth is None else "scene"


def places_by_composition(manifest: Manifest) -> dict[Kind, list[int]]:
    """Return the places of the records of each composition; one without records is left out.

    Args:
        manifest: The records.

    Raises:
        RecipeError: A record is neither a scene nor an image.
    """
    places: dict[Kind, list[int]] = {}
    for index, record in enumerate(manifest.records):
        places.setdefault(composition_of(record), []).append(index)
    return dict(sorted(places.items()))
