"""Explaining the 12 classes of a clip: the original's notebook loop, one optimisation after another, then ours."""

import torch
from baseline import relevance, train

import instr_lib as il
from instr_lib.memory import tune_malloc


def clip():
    """The published network, and the spectrogram of one clip."""
    return il.load_model("original"), il.log_mel(il.Synth().render(il.clip_score(0)))


def baseline_network(model):
    """The baseline's network with a network's weights: pooling and ReLU have none, so their order does not matter."""
    baseline = train.network()
    baseline.load_state_dict(dict(zip(baseline.state_dict(), model.layers.state_dict().values(), strict=True)))
    return baseline.eval()


def picture(model, mel):
    """What the network is shown, (3, 400, 400)."""
    with torch.no_grad():
        return model.preprocess(torch.from_numpy(mel)[None, None])[0].contiguous()


def bench_baseline(measure, size, times=2):
    model, mel = clip()
    baseline, shown = baseline_network(model), picture(model, mel)
    measure(lambda: relevance.relevance(baseline, shown, range(size.classes), times))


def bench_once(measure, size):
    bench_baseline(measure, size, times=1)


def bench_malloc(measure, size):
    tune_malloc()
    bench_baseline(measure, size, times=1)


def bench_ours(measure, size):
    tune_malloc()
    model, mel = clip()
    measure(lambda: il.relevance(model, mel[None], range(size.classes), composite="epsilon_plus_flat"))
