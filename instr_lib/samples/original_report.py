"""The numbers of the original report, to compare ours with.

M. Szczęsny, K. Królewiak, K. Łobodecki: "See the Sound of a Guitar: Concept Relevance Propagation in
Music Spectrograms". Tuples of twelve are in the order of ``INSTRUMENTS``. Chapters 1 to 5 compare with them.
"""

N_CLIPS = 8000
OCCURRENCES = (1671, 1646, 1643, 1679, 1652, 1684, 1614, 1716, 1638, 1698, 1711, 1702)
CLIPS_BY_COUNT = {1: 2031, 2: 1931, 3: 1991, 4: 2047}

MACRO_F1 = 0.92
F1 = (0.82, 0.93, 0.93, 0.97, 0.87, 0.78, 0.90, 0.99, 0.87, 0.97, 0.96, 1.00)

PARAMETERS = 855_948
# (kind, output shape, parameters); the report's table has no rows for ReLU and Flatten.
LAYERS = (
    ("Conv2d", (8, 398, 398), 224),
    ("BatchNorm2d", (8, 398, 398), 16),
    ("MaxPool2d", (8, 199, 199), 0),
    ("Conv2d", (16, 197, 197), 1168),
    ("BatchNorm2d", (16, 197, 197), 32),
    ("MaxPool2d", (16, 98, 98), 0),
    ("Conv2d", (32, 96, 96), 4640),
    ("BatchNorm2d", (32, 96, 96), 64),
    ("MaxPool2d", (32, 48, 48), 0),
    ("Conv2d", (128, 46, 46), 36_992),
    ("BatchNorm2d", (128, 46, 46), 256),
    ("MaxPool2d", (128, 23, 23), 0),
    ("Dropout", (67_712,), 0),
    ("Linear", (12,), 812_556),
)

# The mixtures that it plays and explains.
ACTIVE_INSTRUMENTS = (("Acoustic Grand Piano",), ("Acoustic Grand Piano", "Violin", "Trumpet", "New Age Pad"))
EXAMPLES = (
    ("Acoustic Bass",),
    ("Square Wave Lead", "New Age Pad"),
    ("Acoustic Grand Piano", "Trumpet", "Violin", "New Age Pad"),
)
