"""The numbers that every room shares: the clip, its sample rate, the mel grid and the decibel scale."""

CLIP_SECONDS = 5.0
SAMPLE_RATE = 44_100  # Hz
CLIP_SAMPLES = int(CLIP_SECONDS * SAMPLE_RATE)

N_FFT = 2048  # samples of a Hann window
HOP = 512  # samples from one frame to the next, 11.6 ms
N_MELS = 128
N_FRAMES = 1 + CLIP_SAMPLES // HOP  # 431
FLOOR_DB = -80.0  # silence
REFERENCE = 1000.0  # mel power that is 0 dB
