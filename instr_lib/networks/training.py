"""One readable training loop for all networks.

A checkpoint is written after every epoch. A run that was interrupted resumes from it and ends with
the weights it would have had (on the same machine, with as many threads), because all randomness in
an epoch comes from (seed, epoch). The same loop runs in several processes if it is given a Lightning
Fabric. Chapter 3 trains with it; chapters 7 and 9 add a penalty and augmentation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from .._files import atomic_path, locked_folder
from ..data.dataset import ClipDataset
from ..data.spectrogram import dequantise
from ..errors import TrainingError
from .distributed import OneProcess, has_bfloat16, training_batch_norm
from .evaluation import f1_scores


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run; the defaults are the original report's recipe."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: str = "constant"  # or "warmup-cosine": linear warmup over a tenth of the steps, then a cosine to 0
    weight_decay: float = 0.0  # with 0, AdamW is Adam
    seed: int = 0  # of the order of clips and of dropout

    def __post_init__(self):
        if self.schedule not in ("constant", "warmup-cosine"):
            raise TrainingError(f"schedule must be 'constant' or 'warmup-cosine', not {self.schedule!r}")
        whole = all(isinstance(v, int) for v in (self.epochs, self.batch_size, self.seed))
        if not whole or min(self.epochs, self.batch_size) < 1 or self.seed < 0 or not self.learning_rate > 0:
            raise TrainingError(
                f"epochs, batch_size and learning_rate must be positive, and seed, epochs and batch_size whole: {self}"
            )

    def rate(self, progress: float) -> float:
        """Learning rate when this share of the run, from 0 to 1, is done."""
        if self.schedule == "constant":
            return self.learning_rate
        if progress < 0.1:
            return self.learning_rate * (0.04 + 0.96 * progress / 0.1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def pos_weight(labels: np.ndarray) -> np.ndarray:
    """Negatives over positives for each instrument, from labels (n, 12): float32 (12,).

    The original report weights the positive term of the loss with it. Give it the training labels only.

    Raises
    ------
    TrainingError
        If an instrument is in no clip or in every clip.
    """
    positives = labels.sum(axis=0)
    if not ((positives > 0) & (positives < len(labels))).all():
        raise TrainingError(f"with {len(labels)} training clips some instrument is in none or in all: generate more clips")
    return ((len(labels) - positives) / positives).astype(np.float32)


def train(
    model: torch.nn.Module,
    ds: ClipDataset,
    train_index: Sequence[int],
    val_index: Sequence[int],
    settings: TrainSettings | None = None,
    run: str | os.PathLike | None = None,
    progress: bool = True,
    fabric=None,
    penalty: Callable | None = None,
    augment: Callable | None = None,
) -> list[dict]:
    """Train a network in place; it ends in eval mode with the weights of its best epoch.

    The loss is binary cross-entropy on logits, positives weighted by :func:`pos_weight` of the
    training part. The best epoch is the one with the highest macro-F1 on the validation part; with a
    penalty it is the last.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    ds : ClipDataset
    train_index, val_index : sequences of int
        Clips of ``ds`` to learn from, and to choose the epoch by.
    settings : TrainSettings, optional
    run : path, optional
        Folder for a checkpoint after every epoch; an existing run is resumed.
    progress : bool
        Show a progress bar.
    fabric : lightning.fabric.Fabric, optional
        A launched Fabric. Its processes share each batch and end with the same weights. By default one process,
        on the GPU if there is one. The page "Scaling out" shows how.
    penalty : callable, optional, such as :class:`instr_lib.explain.prior.AttributionPrior`
        Called with the network, ``ds``, the clips of a batch and their spectrograms; returns what is added to the
        loss, summed over clips. Its ``repr`` is part of the run's identity. For one process only, and for a network
        that is trained already: its batch normalisation keeps its means and variances, which relevance depends on.
    augment : callable, optional, such as :class:`instr_lib.data.augmentation.Augmentation`
        Called with the spectrograms and labels of a training batch; returns new ones. Its ``repr`` is part of the
        run's identity.

    Returns
    -------
    history : list of dict
        Per epoch: epoch, rate, train_loss, val_loss, val_f1 (macro), seconds.

    Raises
    ------
    TrainingError
        If the run's folder holds a run with other settings or data, or a damaged checkpoint, or another
        process is training into it.
    """
    settings, fabric = settings or TrainSettings(), fabric or OneProcess()
    if penalty and fabric.world_size > 1:
        raise TrainingError(f"a penalty is computed in one process, not in {fabric.world_size}: train without a Fabric")
    for name, index in (("training", train_index), ("validation", val_index)):
        if len(index) == 0:
            raise TrainingError(f"the {name} part has no clip: give it at least one")
        if not (min(index) >= 0 and max(index) < len(ds)):
            raise TrainingError(f"the {name} part has a clip outside 0 to {len(ds) - 1}: the data have {len(ds)} clips")
    model.to(fabric.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    weights = torch.from_numpy(pos_weight(ds.labels[train_index])).to(fabric.device)
    identity = {"model": type(model).__name__, "settings": asdict(settings), "data": ds.fingerprint}
    if penalty:
        # It starts from trained weights, which are part of what identifies the run.
        first = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())).hexdigest()
        identity |= {"penalty": repr(penalty), "from": first}
    if augment:
        identity["augment"] = repr(augment)
    identity["clips"] = [hashlib.sha256(np.asarray(i, np.int64).tobytes()).hexdigest() for i in (train_index, val_index)]
    checkpoint = Path(run) / "checkpoint.safetensors" if run else None
    is_main, steps = fabric.global_rank == 0, -(-len(train_index) // settings.batch_size)
    with contextlib.ExitStack() as stack:
        if run and is_main:
            stack.enter_context(locked_folder(run, TrainingError))
        fabric.barrier()
        history, best = _resume(checkpoint, identity, model, optimizer) if checkpoint else ([], None)
        stack.enter_context(training_batch_norm(model, fabric, frozen=penalty is not None))
        network, optimizer = fabric.setup(model, optimizer)
        resumed_steps = len(history) * steps
        bar = stack.enter_context(
            tqdm(total=settings.epochs * steps, initial=resumed_steps, unit="step", disable=not (progress and is_main))
        )

        def loss_of(batch):
            share = batch[fabric.global_rank :: fabric.world_size]
            # Shares may differ by a clip; the mean over processes is still the mean over the batch.
            loss = _loss(network, ds, share, weights, fabric, penalty, augment)[0]
            return loss * fabric.world_size / len(batch)

        def on_step(loss):
            bar.set_postfix(epoch=len(history) + 1, loss=f"{loss:.3f}", refresh=False)
            bar.update()

        for epoch in range(len(history), settings.epochs):
            start = time.perf_counter()
            order = np.random.default_rng([settings.seed, epoch]).permutation(train_index)
            batches = np.split(order, range(settings.batch_size, len(order), settings.batch_size))
            rates = [settings.rate((epoch * steps + step) / (settings.epochs * steps)) for step in range(steps)]
            with torch.random.fork_rng():
                # For dropout: a different choice in each epoch and process.
                torch.manual_seed(settings.seed * 10_000 + epoch + 1_000_000_007 * fabric.global_rank)
                losses = one_epoch(network, optimizer, batches, rates, loss_of, fabric, on_step)
            total = sum(loss * len(batch) for loss, batch in zip(losses, batches, strict=True))
            row = {"epoch": epoch + 1, "rate": rates[-1], "train_loss": total / len(order)}
            row |= _validate(model, ds, val_index, weights, settings.batch_size, fabric)
            row["seconds"] = round(time.perf_counter() - start, 1)
            if not np.isfinite(row["train_loss"]):
                raise TrainingError(f"the loss is NaN or infinite in epoch {epoch + 1}: lower the learning rate")
            if penalty or not history or row["val_f1"] > max(r["val_f1"] for r in history):
                best = {name: value.clone() for name, value in model.state_dict().items()}
            history.append(row)
            if checkpoint and is_main:
                _save_checkpoint(checkpoint, identity, model, optimizer, best, history)
    model.load_state_dict(best)
    model.to("cpu").eval()
    return history


def one_epoch(network, optimizer, batches, rates, loss_of, fabric, on_step) -> list[float]:
    """One step for each batch of clips, at its learning rate. Returns the loss at each step."""
    losses = []
    network.train()
    for batch, rate in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(batch)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(fabric.all_reduce(loss.detach()).item())
        on_step(losses[-1])
    return losses


def describe_run(
    ds: ClipDataset,
    settings: TrainSettings,
    history: list[dict],
    penalty: Callable | None = None,
    augment: Callable | None = None,
) -> dict:
    """Data, settings, history and machine of a finished run, for :func:`instr_lib.save_model`."""
    best = history[-1] if penalty else max(history, key=lambda row: row["val_f1"])
    return {
        "data": {key: ds.manifest[key] for key in ("n_clips", "seed", "split", "soundfont", "versions")}
        | ({"variation": ds.manifest["variation"]} if "variation" in ds.manifest else {})
        | {"fingerprint": ds.fingerprint},
        "settings": asdict(settings)
        | ({"penalty": repr(penalty)} if penalty else {})
        | ({"augment": repr(augment)} if augment else {}),
        "history": history,
        "best_epoch": best["epoch"],
        "seconds": round(sum(row["seconds"] for row in history)),
        "machine": {
            "system": platform.platform(terse=True),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "bfloat16": has_bfloat16(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def _loss(network, ds, clips, weights, fabric, penalty=None, augment=None):
    """The loss, a mean over instruments, plus any penalty, both summed over clips; and the logits (n, 12)."""
    mels = torch.from_numpy(dequantise(ds.stored(clips)))[:, None].to(fabric.device)  # (n, 1, 128, 431)
    labels = torch.from_numpy(ds.labels[clips]).to(fabric.device)  # (n, 12)
    if augment:
        mels, labels = augment(mels, labels)
    with fabric.autocast():
        logits = network(mels).float()
    losses = binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
    loss = losses.mean(1).sum()
    return loss + penalty(network, ds, clips, mels) if penalty else loss, logits


def _validate(model, ds, index, weights, batch_size, fabric) -> dict:
    """Loss and macro-F1 on the validation part."""
    model.eval()
    total, logits = 0.0, []
    with torch.no_grad():
        for start in range(0, len(index), batch_size):
            loss, out = _loss(model, ds, index[start : start + batch_size], weights, fabric)
            total += loss.item()
            logits.append(out.cpu())
    predicted = torch.cat(logits).numpy() > 0
    return {"val_loss": total / len(index), "val_f1": float(np.nanmean(f1_scores(ds.labels[index], predicted)))}


def _save_checkpoint(path: Path, identity, model, optimizer, best, history):
    """Model, best model and optimizer in one safetensors file, whole or not at all."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    about = {"identity": json.dumps(identity), "history": json.dumps(history)}
    try:
        with atomic_path(path) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, about)
    except (OSError, SafetensorError) as error:
        remedy = "make room and start again"
        raise TrainingError(f"the checkpoint {path} could not be written ({error}): {remedy}") from None


def _resume(path: Path, identity, model, optimizer) -> tuple[list[dict], dict | None]:
    """Load a checkpoint into model and optimizer; returns the history and the best weights, none if there is no file."""
    if not path.exists():
        return [], None
    remedy = "delete the folder to start again, or choose another one"
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            stored, history = json.loads(about["identity"]), json.loads(about["history"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged ({error}): {remedy}") from None
    for key, value in identity.items():
        if stored.get(key) != value:
            raise TrainingError(f"the run in {path.parent} has {key} = {stored.get(key)}, not {value}: {remedy}")
    groups: dict = {"model": {}, "best": {}, "optimizer": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        groups[kind][rest] = value
    model.load_state_dict(groups["model"])
    state: dict = {}
    for name, value in groups["optimizer"].items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history, groups["best"]
