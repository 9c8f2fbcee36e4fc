"""The training loop: what it computes, and that an interrupted run ends like an uninterrupted one."""

import numpy as np
import pytest
import torch
from torch import nn

import instr_lib as il
from instr_lib.networks import distributed, training
from instr_lib.networks.models import Preprocess


class Tiny(nn.Module):
    """A network with what makes resuming hard (batch statistics, dropout), at a millisecond per step."""

    def __init__(self, dropout: float = 0.2):
        super().__init__()
        self.preprocess = Preprocess()
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
        return self.layers(self.preprocess(mels))


SETTINGS = il.TrainSettings(epochs=4, batch_size=16, learning_rate=3e-3, schedule="warmup-cosine", weight_decay=0.01)
ONE_EPOCH = il.TrainSettings(**(vars(SETTINGS) | {"epochs": 1}))


def fresh(kind) -> nn.Module:
    """The network that every run starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def run(clips, kind=Tiny, settings=SETTINGS, folder=None, parts=None, change=None):
    """Train from the same weights; returns the network and the history, without the seconds per epoch."""
    network = fresh(kind)
    if change:
        change(network)
    history = il.train(network, clips, *(parts or clips.split()), settings, run=folder, progress=False)
    return network, [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.fixture
def interrupt(monkeypatch):
    """A function: interrupt the next run after this many steps, as by Ctrl-C."""

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


def test_pos_weight_by_hand():
    """Of four clips three play the first instrument (1 without, 3 with), two the second, one the third."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    weights = il.pos_weight(labels)
    assert weights.dtype == np.float32
    assert np.allclose(weights, [1 / 3, 2 / 2, 3 / 1])


@pytest.mark.parametrize("column", [0, 1])
def test_pos_weight_needs_both_kinds_of_clips(column):
    labels = np.array([[1, 0, 0], [0, 0, 1]])
    labels[:, 1] = column
    with pytest.raises(il.TrainingError, match="more clips"):
        il.pos_weight(labels)


def test_defaults_are_the_reports():
    settings = il.TrainSettings()
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (20, 64, 0.001)
    assert {settings.rate(p) for p in np.linspace(0, 1, 11)} == {0.001}
    assert settings.weight_decay == 0  # AdamW without weight decay is Adam


def test_warmup_cosine_rises_and_falls():
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
    for part, mode, value in ((train, True, row["train_loss"]), (validation, False, row["val_loss"])):
        network.train(mode)
        with torch.no_grad():
            z = network(torch.from_numpy(clips.mels(part))[:, None]).double().numpy()
        y, p = clips.labels[part], 1 / (1 + np.exp(-z))
        loss = -(weights * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
        assert value == pytest.approx(loss, rel=0.01)  # training computes in bfloat16 where it can


@pytest.mark.slow
def test_loss_decreases(clips):
    train, validation = clips.split()
    settings = il.TrainSettings(epochs=3, batch_size=8, learning_rate=3e-3)
    network, history = run(clips, il.CompactCNN, settings, parts=(train[:32], validation))
    losses = [row["train_loss"] for row in history]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.8 * losses[0]
    assert not any(module.training for module in network.modules())


def test_history_has_epoch_rate_and_scores(uninterrupted):
    _, history = uninterrupted
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[0].keys() == {"epoch", "rate", "train_loss", "val_loss", "val_f1"}
    assert all(0 <= row["val_f1"] <= 1 for row in history)
    assert history[-1]["rate"] == pytest.approx(SETTINGS.rate(23 / 24))  # the last of 4 x 6 steps


class Ruinous(il.TrainSettings):
    """After the sixth epoch the rate is so high that the network unlearns everything."""

    def rate(self, progress):
        return 0.05 if progress * self.epochs < 5.999 else 100.0


def test_the_best_validation_epoch_is_kept(clips):
    """A run that ends with the best epoch has the same history up to there, and ends with the same weights."""
    network, history = run(clips, settings=Ruinous(epochs=8, batch_size=16))
    scores = [row["val_f1"] for row in history]
    best = int(np.argmax(scores)) + 1
    assert 1 < best <= 6
    shorter, first = run(clips, settings=Ruinous(epochs=best, batch_size=16))
    assert first == history[:best]
    assert same(shorter, network)


def test_an_instrument_without_f1_does_not_spoil_the_choice_of_the_epoch(clips):
    """It is in no validation clip and never predicted, so its F1 is NaN; the mean is over the others."""

    def never_the_first(network):
        with torch.no_grad():
            network.layers[-1].bias[0] = -100

    train, validation = clips.split()
    without = validation[clips.labels[validation, 0] == 0]
    assert 0 < len(without) < len(validation)
    _, history = run(clips, parts=(train, without), change=never_the_first)
    assert np.isfinite([row["val_f1"] for row in history]).all()


def test_a_loss_of_nan_stops_the_run(clips):
    def broken(network):
        with torch.no_grad():
            network.layers[-1].weight[0, 0] = float("nan")

    with pytest.raises(il.TrainingError, match="lower the learning rate"):
        run(clips, change=broken)


def test_training_leaves_the_global_generator_alone(clips):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(clips)
    assert torch.equal(torch.rand(3), expected)


# Interrupted and resumed


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


@pytest.mark.slow
def test_interrupted_twice_compact(clips, interrupt, tmp_path):
    """The same for the real network, whose batches have channels last in memory."""
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


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_run_on_other_clips_of_the_same_data_is_refused(part, clips, tmp_path):
    """As many clips, but not the same ones."""
    train, validation = clips.split()
    run(clips, settings=ONE_EPOCH, parts=(train[:90], validation[:20]), folder=tmp_path)
    other = (train[-90:], validation[:20]) if part == "train" else (train[:90], validation[-20:])
    with pytest.raises(il.TrainingError, match="delete the folder"):
        run(clips, settings=ONE_EPOCH, parts=other, folder=tmp_path)


def test_channels_first_batch_norm_computes_the_same(clips):
    """As PyTorch's in float64, forward and backward, to within bfloat16; its output has channels last."""
    torch.manual_seed(1)
    x = torch.randn(4, 8, 20, 30).bfloat16()
    norm, reference = distributed.ChannelsFirstBatchNorm2d(8), nn.BatchNorm2d(8).double()
    given = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.double().requires_grad_()
    output, expected = norm(given), reference(exact)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(output.double(), expected, atol=0.02)
    slope = torch.randn(4, 8, 20, 30)
    (output.float() * slope).sum().backward()
    (expected * slope).sum().backward()
    assert torch.allclose(given.grad.double(), exact.grad, atol=0.05)
    assert torch.allclose(norm.weight.grad.double(), reference.weight.grad, rtol=0.02, atol=0.2)
    assert torch.allclose(norm.running_var.double(), reference.running_var, rtol=1e-3)


def test_batch_norm_is_pytorchs_again_after_training(clips):
    network = il.OriginalCNN()
    with distributed.training_batch_norm(network, distributed.OneProcess()):
        kinds = [type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kinds == [distributed.ChannelsFirstBatchNorm2d, nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm2d]
    assert all(type(m) is nn.BatchNorm2d for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_batch_norm_is_that_of_eval_mode(random_network):
    """In training mode it gives what it gives in eval mode, and keeps its statistics."""
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
        il.train(il.CompactCNN(), clips, [0], [1], fabric=Two(), penalty=lambda *arguments: 0)


def test_describe_run_has_the_history_and_its_best_epoch(clips, uninterrupted):
    history = [{**row, "seconds": 1.4} for row in uninterrupted[1]]
    about = il.describe_run(clips, SETTINGS, history)
    best = max(history, key=lambda row: row["val_f1"])["epoch"]
    assert (about["history"], about["best_epoch"], about["seconds"]) == (history, best, 6)
    assert about["settings"] == vars(SETTINGS) and about["data"]["fingerprint"] == clips.fingerprint
    with_both = il.describe_run(clips, SETTINGS, history, penalty=len, augment=max)
    assert with_both["best_epoch"] == 4  # a penalty keeps the last epoch
    assert with_both["settings"] == {**vars(SETTINGS), "penalty": repr(len), "augment": repr(max)}
