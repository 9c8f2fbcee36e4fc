"""How fast the report's network learns: a straightforward step, then with one optimisation after another, then ours."""

import numpy as np
import torch
from baseline import train

import instr_lib as il
from instr_lib.memory import tune_malloc


def bench_baseline(measure, size):
    trainer, data = train.trainer(), train.batch(size.batch)
    measure(lambda: train.step(*trainer, *data))


def bench_malloc(measure, size):
    tune_malloc()
    bench_baseline(measure, size)


def bench_layout(measure, size, bfloat16=False):
    tune_malloc()
    model = il.OriginalCNN().layers.to(memory_format=torch.channels_last)  # pools before ReLU
    optimizer, criterion = torch.optim.Adam(model.parameters(), 1e-3), train.trainer()[2]
    pictures, labels = train.batch(size.batch)
    pictures = pictures.to(memory_format=torch.channels_last)

    def work():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(pictures).float()
        optimizer.zero_grad()
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    measure(work)


def bench_bfloat16(measure, size):
    bench_layout(measure, size, bfloat16=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bench_ours(measure, size, scratch):
    """Steps as `il.train` does them, reading clips and enlarging them included, and one clip to choose the epoch by."""
    tune_malloc()
    clips = size.steps * 64
    ds = il.generate(scratch / "train", clips + 1, progress=False)
    settings = il.TrainSettings(epochs=1)  # batches of 64
    work = lambda: il.train(il.OriginalCNN(), ds, np.arange(clips), [clips], settings, progress=False)  # noqa: E731
    measure(work, size.steps)
