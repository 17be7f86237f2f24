"""What Hugging Face's Trainer lacks: our batches and parameter groups, the parts of the loss, complete checkpoints.

The loop, accumulation, mixed precision, several processes and exact resumption are the Trainer's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from crossdim.errors import RecipeError, nearest
from crossdim.training.alarm import alarm
from crossdim.training.checkpoints import mark_complete
from crossdim.training.data import Batch, refuse_failures
from crossdim.training.optimisation import parameter_groups
from crossdim.training.provenance import RunFolder
from crossdim.training.schedule import Schedule
from crossdim.training.sections import HardwareSection, OptimisationSection
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.text import Med2E3Processor


def training_arguments(
    folder: RunFolder,
    optimisation: OptimisationSection,
    hardware: HardwareSection,
    schedule: Schedule,
    seed: int,
    **more: Any,
) -> TrainingArguments:
    """Translate a recipe into the Trainer's arguments.

    Args:
        folder: Where checkpoints go.
        optimisation: The recipe's section.
        hardware: The recipe's section.
        schedule: Knows the number of steps.
        seed: The recipe's seed.
        **more: Further arguments of the Trainer.

    Raises:
        RecipeError: bf16 is asked for on a GPU that does not have it.
    """
    gpu = torch.cuda.is_available() and hardware.device == "auto"
    if hardware.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError("'hardware.precision'", "is bf16, which this GPU does not have", "Set it to fp32 or auto")
    bf16 = hardware.precision == "bf16" or (
        hardware.precision == "auto" and gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints),
        max_steps=schedule.steps,
        gradient_accumulation_steps=optimisation.accumulate,
        adam_beta1=optimisation.betas[0],
        adam_beta2=optimisation.betas[1],
        lr_scheduler_type="cosine",
        warmup_steps=round(optimisation.warmup * schedule.steps),
        max_grad_norm=optimisation.max_grad_norm,
        seed=seed,
        bf16=bf16,
        use_cpu=not gpu,
        ddp_backend="gloo" if "RANK" in os.environ and not gpu else None,
        activation_checkpointing=hardware.activation_checkpointing or None,
        dataloader_num_workers=hardware.workers,
        dataloader_pin_memory=gpu,
        accelerator_config={"even_batches": False, "split_batches": False, "dispatch_batches": False},
        logging_strategy="steps",
        logging_nan_inf_filter=False,
        save_strategy="steps",
        disable_tqdm=True,
        **more,
    )
    # Several GPUs without torchrun would make the Trainer cut our batches in pieces (DataParallel): use one.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def trackers(report_to: str | tuple[str, ...]) -> list[str]:
    """Return the Trainer's ``report_to`` for a recipe's.

    Args:
        report_to: ``auto``, ``none``, or the names of trackers.

    Raises:
        RecipeError: A tracker is unknown to the Trainer, or not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    if isinstance(report_to, str):
        return ["tensorboard"] if report_to == "auto" and "tensorboard" in installed else []
    for name in report_to:
        subject = f"'logging.report_to' {name}"
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(subject, "is no tracker of the Trainer", nearest(name, INTEGRATION_TO_CALLBACK))
        if name not in installed:
            raise RecipeError(subject, "is not installed", f"Install it (pip install {name}), or leave it out")
    return list(report_to)


class _LogWithCheckpoint(TrainerCallback):
    """Logs and evaluates whenever a checkpoint is due, so that a resumed run averages over the same steps."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log, then evaluate where there is something to evaluate, then save."""
        if control.should_save:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
        return control


class _Meter:
    """Sums and counts between two log lines, kept on the device so that no step waits for them.

    Args:
        names: Of everything that may be added, so that all processes add up the same things.
        device: Where the sums are kept.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names, self.device = names, device
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._totals = torch.zeros(2, len(self.names), device=self.device)
        self._samples = 0
        self._start = perf_counter()

    def add(self, name: str, total: Tensor | float, count: Tensor | int) -> None:
        """Add to one of the means.

        Args:
            name: One of the names.
            total: What is added up.
            count: Of how many.
        """
        place = self.names.index(name)
        self._totals[0, place] += total.detach().float() if isinstance(total, Tensor) else total
        self._totals[1, place] += count

    def add_samples(self, count: int) -> None:
        """Count samples, for the throughput.

        Args:
            count: How many.
        """
        self._samples += count

    def numbers(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means over all processes, and samples per second.

        Args:
            reduce: Sums a tensor over all processes.
        """
        samples = torch.tensor([self._samples], dtype=torch.float32, device=self.device)
        *flat, counted = reduce(torch.cat([self._totals.flatten(), samples])).tolist()
        totals, counts = flat[: len(self.names)], flat[len(self.names) :]
        means = {name: totals[place] / counts[place] for place, name in enumerate(self.names) if counts[place]}
        return means | {"samples_per_second": round(counted / (perf_counter() - self._start), 2)}


@dataclass(frozen=True)
class Plan:
    """What a run is made of besides the model.

    Attributes:
        folder: The run's folder.
        schedule: Every batch of the run.
        dataset: Indexed by the schedule's draws.
        collate: Samples → batch with the model's arguments.
        contract: Saved in every checkpoint; a processor holds one.
        learning_rate: Of the last layer, already scaled.
        weight_decay: Of matrices and kernels.
        layer_decay: Factor on the learning rate from each layer to the one below.
        factor_of: Further factor on the learning rate of a parameter, by its name.
        measured: Names of the means in the training log.
        in_every_forward: Parts that every forward must have, so that every step trains the shared layers on both kinds.
    """

    folder: RunFolder
    schedule: Schedule
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Batch]
    contract: PreprocessingContract | Med2E3Processor
    learning_rate: float
    weight_decay: float
    layer_decay: float = 1.0
    factor_of: Callable[[str], float] = lambda name: 1.0
    measured: tuple[str, ...] = ()
    in_every_forward: tuple[str, ...] = ()


def _samples_in(inputs: Batch) -> int:
    """Return how many samples a batch holds: dialogues, scenes, or images and volumes."""
    if "input_ids" in inputs:
        return len(inputs["input_ids"])  # several dialogues may share a volume
    if "points" in inputs:
        return len(inputs["points"])  # an image beside them is of the same scene
    return sum(len(inputs[key]) for key in ("pixel_values", "voxel_values") if inputs.get(key) is not None)


class RunTrainer(Trainer):
    """A Trainer that follows a :class:`Schedule`, writes ``log.jsonl`` and marks complete checkpoints.

    Args:
        model: What learns; parameters that do not require gradients are frozen.
        arguments: Of the Trainer.
        plan: Everything else.
        callbacks: Health, progress, early stopping.
        validation: What the Trainer believes to be evaluated; None where nothing is.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        plan: Plan,
        callbacks: Sequence[TrainerCallback] = (),
        validation: Dataset[Any] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=plan.dataset,
            eval_dataset=validation,
            data_collator=plan.collate,
            processing_class=cast("Any", plan.contract),  # it has save_pretrained, which is all that is called
            callbacks=[*callbacks, _LogWithCheckpoint()],
        )
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self.plan = plan
        self._meter = _Meter(plan.measured, self.args.device)
        self._notes: dict[str, float] = {}
        self._checked = False

    @property
    def network(self) -> Any:
        """What learns, without what accelerate puts around it."""
        assert self.model is not None
        return self.accelerator.unwrap_model(self.model)

    def note(self, numbers: dict[str, float]) -> None:
        """Add numbers to the next line of the training log.

        Args:
            numbers: By name.
        """
        self._notes |= numbers

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader over the schedule's batches; accelerate deals them out to the processes."""
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.plan.dataset,
            batch_sampler=self.plan.schedule,
            collate_fn=self.plan.collate,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=2 if workers else None,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW over our parameter groups."""
        if self.optimizer is None:
            plan = self.plan
            groups = parameter_groups(
                self.network.named_parameters(),
                plan.learning_rate,
                plan.weight_decay,
                self.network.config.num_hidden_layers,
                plan.layer_decay,
                plan.factor_of,
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.network)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        refuse_failures(inputs)
        return super()._prepare_inputs(inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss and count its parts."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._measure(inputs, outputs)
            if not self._checked:
                self._check_first_forward(outputs.get("losses") or {}, loss)
        return (loss, outputs) if return_outputs else loss

    def _measure(self, inputs: Batch, outputs: Any) -> None:
        """Add one forward to the next log line; a classifier's only tells how many samples it saw."""
        for name, value in (outputs.get("losses") or {}).items():
            self._meter.add(f"loss/{name}", value, 1)
        self._meter.add_samples(_samples_in(inputs))
        for kind, prefix in (("image", ""), ("volume", "voxel_")):
            branch, padding = outputs.get(kind), inputs.get(f"{prefix}padding_mask")
            if branch is not None and padding is not None:
                self._meter.add("padded_tokens", padding.sum(), padding.numel())
                self._meter.add(f"hidden/{kind}", (branch["mask"] * ~padding).sum(), (~padding).sum())
        encoded = outputs.get("encoded")
        if encoded is not None:  # a scene: nothing of it is padding
            masks = {"points": encoded.get("points_mask"), "image": (encoded.get("image_mask") or (None,))[-1]}
            for kind, mask in masks.items():
                if mask is not None:
                    self._meter.add(f"hidden/{kind}", mask.float().sum(), mask.numel())

    def _check_first_forward(self, losses: Mapping[str, Tensor], loss: Tensor) -> None:
        """Stop before the first update if the loss is not finite, lacks a kind, or has nothing to learn from one."""
        missing = [name for name in self.plan.in_every_forward if name not in losses]
        assert not missing, f"the first forward has no loss for {missing}: a kind would not be learned"
        broken = [name for name, value in {**losses, "sum": loss}.items() if not bool(torch.isfinite(value))]
        if broken:
            raise alarm(
                self.plan.folder,
                self.state.global_step,
                f"the loss is not finite in the first forward ({', '.join(broken)})",
                "Look at the data with 'crossdim inspect'; use hardware.precision=fp32",
            )
        shares = self._meter.numbers(lambda values: values)
        for kind in ("image", "volume", "points"):
            if shares.get(f"hidden/{kind}") == 0:
                raise RecipeError(
                    f"'masking.{kind}_ratio'",
                    f"hides no {kind} token that holds data, so there is nothing to learn",
                    f"Choose a larger ratio, or a larger contract.{kind}_size",
                )
        self._checked = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss to a line of the training log, and append it to ``log.jsonl``."""
        if "loss" in logs:
            logs |= self._meter.numbers(lambda values: self.accelerator.reduce(values, "sum")) | self._notes
            self._meter.reset()
            self._notes = {}
        self.state.epoch = round(self.plan.schedule.epoch_at(self.state.global_step), 4)
        super().log(logs, start_time)
        self.plan.folder.append_log({"step": self.state.global_step, **logs})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        broken = [name for name, value in self.network.named_parameters() if not bool(torch.isfinite(value).all())]
        if broken:
            raise alarm(
                self.plan.folder,
                step,
                f"{len(broken)} weights are not finite ({broken[0]}, ...)",
                "Continue from the checkpoint with a smaller optimisation.base_learning_rate",
            )
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            mark_complete(self.plan.folder.checkpoints / f"checkpoint-{step}")
        self.accelerator.wait_for_everyone()
