"""The training loop: what it computes, and that an interruption changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import instr_lib as il
from instr_lib.networks import distributed, training
from instr_lib.networks.models import Preprocess


class Tiny(nn.Module):
    """A network with all that makes resuming hard (batch statistics, dropout), at a millisecond a step."""

    def __init__(self, dropout: float = 0.2):
        super().__init__()
        self.front = Preprocess()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, (8, 16), stride=(8, 16)),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((16, 1)),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(128, 12),
        )

    def forward(self, mels):
        return self.layers(self.front(mels))


SETTINGS = il.TrainSettings(epochs=4, batch_size=16, learning_rate=3e-3, schedule="one-cycle", weight_decay=0.01)
ONE_EPOCH = il.TrainSettings(**(vars(SETTINGS) | {"epochs": 1}))


def fresh(kind) -> nn.Module:
    """A network as every run here starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def run(clips, kind=Tiny, settings=SETTINGS, folder=None, parts=None, change=None):
    """Train from the same start; returns the network and the history, without how long each epoch took."""
    network = fresh(kind)
    if change:
        change(network)
    history = il.train(network, clips, *(parts or clips.split()), settings, run=folder, progress=False)
    return network, [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.fixture
def interrupt(monkeypatch):
    """A function: let the next run be interrupted as by Ctrl-C, after this many steps."""

    def at(step: int):
        class Interrupted(training.tqdm):
            steps = 0

            def update(self, n=1):
                type(self).steps += 1
                if self.steps == step:
                    monkeypatch.undo()
                    raise KeyboardInterrupt
                return super().update(n)

        monkeypatch.setattr(training, "tqdm", Interrupted)

    return at


@pytest.fixture(scope="module")
def uninterrupted(clips):
    return run(clips)


# The recipe


def test_positive_weights_by_hand():
    """Of four clips three play the first instrument (1 without, 3 with), two the second, one the third."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    weights = il.pos_weight(labels)
    assert weights.dtype == np.float32
    assert np.allclose(weights, [1 / 3, 2 / 2, 3 / 1])


@pytest.mark.parametrize("column", [0, 1])
def test_positive_weights_need_both_kinds_of_clips(column):
    labels = np.array([[1, 0, 0], [0, 0, 1]])
    labels[:, 1] = column
    with pytest.raises(il.TrainingError, match="more clips"):
        il.pos_weight(labels)


def test_defaults_are_the_reports():
    settings = il.TrainSettings()
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (20, 64, 0.001)
    assert {settings.rate(p) for p in np.linspace(0, 1, 11)} == {0.001}
    assert settings.weight_decay == 0  # AdamW without weight decay is Adam


def test_one_cycle_rises_and_falls():
    rates = [SETTINGS.rate(p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == rates[10] == pytest.approx(3e-3)
    assert rates[0] == pytest.approx(3e-3 * 0.04)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)


def test_loss_by_hand(clips):
    """Binary cross-entropy straight from its definition, positives weighted by the *training* labels."""
    train, validation = clips.split()
    # One step with all training clips, at a rate so small that the weights stay where they are.
    settings = il.TrainSettings(epochs=1, batch_size=len(train), learning_rate=1e-12)
    _, (row,) = run(clips, lambda: Tiny(dropout=0), settings)
    network, weights = fresh(lambda: Tiny(dropout=0)), il.pos_weight(clips.labels[train])
    for part, mode, found in ((train, True, row["train_loss"]), (validation, False, row["val_loss"])):
        network.train(mode)
        with torch.no_grad():
            z = network(torch.from_numpy(clips.mels(part))[:, None]).double().numpy()
        y, p = clips.labels[part], 1 / (1 + np.exp(-z))
        loss = -(weights * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
        assert found == pytest.approx(loss, rel=0.01)  # training computes in bfloat16 where it can


def test_loss_decreases(clips):
    train, validation = clips.split()
    settings = il.TrainSettings(epochs=3, batch_size=8, learning_rate=3e-3)
    network, history = run(clips, il.CompactCNN, settings, parts=(train[:32], validation))
    losses = [row["train_loss"] for row in history]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.8 * losses[0]
    assert not any(module.training for module in network.modules())


def test_history_tells_epoch_rate_and_scores(uninterrupted):
    _, history = uninterrupted
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[0].keys() == {"epoch", "rate", "train_loss", "val_loss", "val_f1"}
    assert all(0 <= row["val_f1"] <= 1 for row in history)
    assert history[-1]["rate"] == pytest.approx(SETTINGS.rate(23 / 24))  # the last of 4 x 6 steps


class Ruinous(il.TrainSettings):
    """After the sixth epoch the rate is so high that all is forgotten."""

    def rate(self, progress):
        return 0.05 if progress * self.epochs < 5.999 else 100.0


def test_the_best_validation_epoch_is_kept(clips):
    """A run that ends with the best epoch goes the same way as far as there, and ends with the same weights."""
    network, history = run(clips, settings=Ruinous(epochs=8, batch_size=16))
    scores = [row["val_f1"] for row in history]
    best = int(np.argmax(scores)) + 1
    assert 1 < best <= 6
    shorter, first = run(clips, settings=Ruinous(epochs=best, batch_size=16))
    assert first == history[:best]
    assert same(shorter, network)


def test_an_instrument_without_f1_does_not_spoil_the_choice_of_the_epoch(clips):
    """No validation clip has it and it is never predicted, so its F1 is NaN; the mean of the others counts."""

    def never_the_first(network):
        with torch.no_grad():
            network.layers[-1].bias[0] = -100

    train, validation = clips.split()
    without = validation[clips.labels[validation, 0] == 0]
    assert 0 < len(without) < len(validation)
    _, history = run(clips, parts=(train, without), change=never_the_first)
    assert np.isfinite([row["val_f1"] for row in history]).all()


def test_a_loss_that_is_no_number_stops_the_run(clips):
    def broken(network):
        with torch.no_grad():
            network.layers[-1].weight[0, 0] = float("nan")

    with pytest.raises(il.TrainingError, match="lower the learning rate"):
        run(clips, change=broken)


def test_training_leaves_the_chance_of_others_alone(clips):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(clips)
    assert torch.equal(torch.rand(3), expected)


# Interrupted and taken up again


@pytest.mark.parametrize("step", [3, 6, 8, 24], ids=lambda step: f"in epoch {(step - 1) // 6 + 1}, step {step}")
def test_interrupted_training_ends_with_the_same_weights(step, clips, uninterrupted, interrupt, tmp_path):
    straight, expected = uninterrupted
    interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        run(clips, folder=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() == (step > 6)
    resumed, history = run(clips, folder=tmp_path)
    assert history == expected
    assert same(resumed, straight)


def test_interrupted_twice_compact(clips, interrupt, tmp_path):
    """The same for the real network, whose batches go through memory in another order (channels last)."""
    train, validation = clips.split()
    settings = il.TrainSettings(epochs=3, batch_size=16, learning_rate=3e-3)
    arguments = {"kind": il.CompactCNN, "settings": settings, "parts": (train[:32], validation[:12])}
    straight, expected = run(clips, **arguments)
    for step in (3, 1):  # steps of 2 an epoch: in epoch 2, then in epoch 2 again
        interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            run(clips, **arguments, folder=tmp_path)
    resumed, history = run(clips, **arguments, folder=tmp_path)
    assert np.allclose([list(row.values()) for row in history], [list(row.values()) for row in expected], 0, 0, True)
    assert same(resumed, straight)


def test_a_finished_run_is_not_trained_on(clips, interrupt, tmp_path):
    network, history = run(clips, folder=tmp_path)
    interrupt(1)  # would stop it at the first step
    again, same_history = run(clips, folder=tmp_path)
    assert same_history == history
    assert same(again, network)


def test_a_second_run_into_the_same_folder_stops_at_once(clips, uninterrupted, tmp_path, monkeypatch):
    one_epoch, refused = training.one_epoch, []

    def meanwhile(*arguments):
        with pytest.raises(il.TrainingError, match=r"another process is writing to .*wait.*another folder") as error:
            run(clips, folder=tmp_path)
        refused.append(error)
        return one_epoch(*arguments)

    monkeypatch.setattr(training, "one_epoch", meanwhile)
    network, history = run(clips, folder=tmp_path)
    assert len(refused) == 4
    assert history == uninterrupted[1]
    assert same(network, uninterrupted[0])


def test_a_run_folder_that_is_a_file_is_refused(clips, tmp_path):
    (tmp_path / "run").write_text("notes")
    with pytest.raises(il.TrainingError, match="is a file"):
        run(clips, folder=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "notes"


def test_a_checkpoint_that_cannot_be_written_costs_one_epoch(clips, uninterrupted, tmp_path, monkeypatch):
    write, written = training.save_file, []

    def full_disk(tensors, path, *rest):
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half a checkp")
            raise OSError("No space left on device")
        write(tensors, path, *rest)

    monkeypatch.setattr(training, "save_file", full_disk)
    with pytest.raises(il.TrainingError, match=r"checkpoint.*No space left.*make room"):
        run(clips, folder=tmp_path)
    resumed, history = run(clips, folder=tmp_path)
    assert len(written) == 3 + 2  # epochs 1 and 2, the failure; then epochs 3 and 4 alone
    assert history == uninterrupted[1]
    assert same(resumed, uninterrupted[0])


OTHERS = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-3, "schedule": "constant", "weight_decay": 0, "seed": 1}


@pytest.mark.parametrize(("name", "value"), OTHERS.items(), ids=OTHERS)
def test_a_run_with_other_settings_is_refused(name, value, clips, tmp_path):
    run(clips, settings=ONE_EPOCH, folder=tmp_path)
    other = il.TrainSettings(**(vars(ONE_EPOCH) | {name: value}))
    with pytest.raises(il.TrainingError, match=f"settings.*{name}"):
        run(clips, settings=other, folder=tmp_path)


def test_a_run_with_other_data_is_refused(clips, tmp_path):
    parts = (range(40), range(40, 50))
    run(clips, parts=parts, folder=tmp_path / "run")
    other = il.generate(tmp_path / "other", 50, n_jobs=1, progress=False)  # fewer clips, but the same among them
    with pytest.raises(il.TrainingError, match="data"):
        run(other, parts=parts, folder=tmp_path / "run")


def test_a_run_of_another_network_is_refused(clips, tmp_path):
    run(clips, settings=ONE_EPOCH, folder=tmp_path)
    with pytest.raises(il.TrainingError, match="model"):
        run(clips, il.CompactCNN, folder=tmp_path)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_run_on_other_clips_of_the_same_data_is_refused(which, clips, tmp_path):
    """As many clips, but not the same: weights of the one run must not pass for those of the other."""
    train, validation = clips.split()
    run(clips, settings=ONE_EPOCH, parts=(train[:90], validation[:20]), folder=tmp_path)
    other = (train[-90:], validation[:20]) if which == "train" else (train[:90], validation[-20:])
    with pytest.raises(il.TrainingError, match="delete the folder"):
        run(clips, settings=ONE_EPOCH, parts=other, folder=tmp_path)


def test_channels_first_batch_norm_computes_the_same(clips):
    """As PyTorch's in double precision, forward and back, to within bfloat16; and gives batches back with channels last."""
    torch.manual_seed(1)
    x = torch.randn(4, 8, 20, 30).bfloat16()
    ours, theirs = distributed.ChannelsFirstBatchNorm2d(8), nn.BatchNorm2d(8).double()
    given = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.double().requires_grad_()
    found, expected = ours(given), theirs(exact)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found.double(), expected, atol=0.02)
    slope = torch.randn(4, 8, 20, 30)
    (found.float() * slope).sum().backward()
    (expected * slope).sum().backward()
    assert torch.allclose(given.grad.double(), exact.grad, atol=0.05)
    assert torch.allclose(ours.weight.grad.double(), theirs.weight.grad, rtol=0.02, atol=0.2)
    assert torch.allclose(ours.running_var.double(), theirs.running_var, rtol=1e-3)


def test_batch_norm_is_pytorchs_again_after_training(clips):
    network = il.OriginalCNN()
    with distributed.training_batch_norm(network, distributed.OneProcess()):
        kinds = [type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kinds == [distributed.ChannelsFirstBatchNorm2d, nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm2d]
    assert all(type(m) is nn.BatchNorm2d for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_batch_norm_is_that_of_the_learned_network(random_network):
    """While training it gives what it gives in eval mode, and forgets nothing."""
    network = random_network(il.CompactCNN, 1)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-80, 0, (2, 1, 128, 431)).astype(np.float32))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = network(x)
    with distributed.training_batch_norm(network, distributed.OneProcess(), frozen=True):
        network.train()
        network.layers.dropout.eval()
        assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_penalty_is_for_one_process(clips):
    class Two(distributed.OneProcess):
        world_size = 2

    with pytest.raises(il.TrainingError, match="one process, not in 2"):
        il.train(il.CompactCNN(), clips, [0], [1], fabric=Two(), penalty=lambda *targets: 0)
