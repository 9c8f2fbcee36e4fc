"""Augmentation of spectrograms: each change does what it says, and training with it is reproducible."""

import numpy as np
import pytest
import torch

import instr_lib as il


def batch():
    mels = np.stack([clip.mel for clip in il.curated_clips()])
    labels = np.zeros((len(mels), 12), np.float32)
    for label, clip in zip(labels, il.curated_clips(), strict=True):
        label[list(clip.score.instruments)] = 1
    return torch.from_numpy(mels)[:, None], torch.from_numpy(labels)


def augmented(seed=0, **settings):
    off = dict(gain=(0.0, 0.0), filter=0.0, noise=0.0, mix=0.0, masks=0.0)
    torch.manual_seed(seed)
    return il.Augmentation(**(off | settings))(*batch())


def test_augmentation_of_nothing_is_nothing():
    mels, labels = augmented()
    assert torch.allclose(mels, batch()[0], atol=1e-3) and torch.equal(labels, batch()[1])


def test_each_augmentation_does_what_it_says():
    mels, labels = batch()
    louder, _ = augmented(gain=(5.0, 5.0))
    inside = (mels > -74) & (mels < -6)
    assert torch.allclose((louder - mels)[inside], torch.tensor(5.0), atol=1e-3)
    assert torch.equal(louder[mels <= -80], mels[mels <= -80])  # silence stays silent
    filtered, _ = augmented(filter=4.0)
    change = torch.where(inside, filtered - mels, torch.nan)[0, 0]
    assert np.nanmax(np.nanstd(change.numpy(), axis=1)) < 1e-2  # the same at all times
    noisy, _ = augmented(noise=1.0)
    assert (noisy >= mels - 1e-3).all() and (noisy[mels <= -80] > -80).any()
    mixed, both = augmented(mix=1.0)
    assert (mixed >= mels - 1e-3).all() and (both >= labels).all() and both.sum() > labels.sum()
    masked, _ = augmented(masks=1.0)
    silent = (masked <= -80).all(3)[:, 0] & ~(mels <= -80).all(3)[:, 0]
    assert silent.any(1).float().mean() > 0.8 and silent.sum(1).max() <= 17


def test_augmentation_is_the_same_for_the_same_seed_and_stays_on_the_scale():
    torch.manual_seed(1)
    a = il.Augmentation()(*batch())
    torch.manual_seed(1)
    b, c = il.Augmentation()(*batch()), il.Augmentation()(*batch())
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and not torch.equal(a[0], c[0])
    assert a[0].min() >= -80 and a[0].max() <= 0 and a[0].dtype == torch.float32


@pytest.mark.slow
def test_training_with_augmentation_resumes_to_the_same_weights(clips, tmp_path):
    """Stopped after an epoch and resumed: the same weights; and another augmentation is another run."""
    train, validation = range(32), range(32, 40)
    settings = il.TrainSettings(2, 16, schedule="warmup-cosine")

    def fit(folder, augment):
        torch.manual_seed(0)
        model = il.RobustCNN()
        il.train(model, clips, train, validation, settings, tmp_path / folder, progress=False, augment=augment)
        return model

    class Interrupted(il.Augmentation):
        """The same, by its repr too, that stops in the second epoch."""

        left = 3

        def __call__(self, mels, labels):
            Interrupted.left -= 1
            if Interrupted.left < 0:
                raise KeyboardInterrupt
            return super().__call__(mels, labels)

        def __repr__(self):
            return super().__repr__().replace(type(self).__qualname__, "Augmentation")

    whole = fit("whole", il.Augmentation())
    with pytest.raises(KeyboardInterrupt):
        fit("parts", Interrupted())
    parts = fit("parts", il.Augmentation())
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    with pytest.raises(il.TrainingError, match="augment"):
        fit("parts", il.Augmentation(mix=0.9))
