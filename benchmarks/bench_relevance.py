"""How fast the 12 classes of a clip are explained: the original's notebook loop, one measure after another, then ours."""

import torch
from plain import relevance, train

import instr_lib as il
from instr_lib.memory import tune_malloc


def clip():
    """The published network, and the spectrogram of one clip."""
    return il.load_model("original"), il.log_mel(il.Synth().render(il.clip_score(0)))


def plain_network(model):
    """The plain network with a network's weights: pooling and ReLU have none, so their order does not matter."""
    plain = train.network()
    plain.load_state_dict(dict(zip(plain.state_dict(), model.layers.state_dict().values(), strict=True)))
    return plain.eval()


def picture(model, mel):
    """What the network is shown, (3, 400, 400)."""
    with torch.no_grad():
        return model.preprocess(torch.from_numpy(mel)[None, None])[0].contiguous()


def bench_plain(measure, size, times=2):
    model, mel = clip()
    plain, shown = plain_network(model), picture(model, mel)
    measure(lambda: relevance.relevance(plain, shown, range(size.classes), times))


def bench_once(measure, size):
    bench_plain(measure, size, times=1)


def bench_kept(measure, size):
    tune_malloc()
    bench_plain(measure, size, times=1)


def bench_ours(measure, size):
    model, mel = clip()
    measure(lambda: il.relevance(model, mel[None], range(size.classes), composite="epsilon_plus_flat"))
