"""The report's network and one step of its training as PyTorch comes: what a step of `il.train` is compared with.

As in the original's script: ReLU before pooling, 32-bit numbers, the default memory layout, Adam. In its favour, the batch
is in memory already: the original decoded 64 pictures and resized them for every step.
"""

import torch
from torch import nn


def network():
    """The report's table, row by row; takes (n, 3, 400, 400), gives logits (n, 12)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 128, 3), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128 * 23 * 23, 12)),
    )


def trainer():
    """A new network, its optimizer and its loss, weighted as in the report: one clip in five has an instrument."""
    model = network().train()
    return model, torch.optim.Adam(model.parameters(), lr=0.001), nn.BCEWithLogitsLoss(pos_weight=torch.full((12,), 4.0))


def batch(size=64):
    """Pictures (64, 3, 400, 400) and labels (64, 12); how long a step takes does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(size, 1, 400, 400, generator=generator)
    return grey.repeat(1, 3, 1, 1), (torch.rand(size, 12, generator=generator) < 0.2).float()


def step(model, optimizer, criterion, pictures, labels):
    """Learn from one batch. Returns the loss."""
    optimizer.zero_grad()
    loss = criterion(model(pictures), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


if __name__ == "__main__":
    import time

    training, data = trainer(), batch()
    for number in range(6):
        start = time.perf_counter()
        loss = step(*training, *data)
        print(f"step {number}: loss {loss:.2f}, {time.perf_counter() - start:.2f} s")
