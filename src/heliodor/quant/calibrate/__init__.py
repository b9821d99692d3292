"""Better weights at the same bits, found on data: tensors in, codes out.

    statistics   what went into a layer: second moments, magnitudes, some rows
    codes        codes and scales of a weight, the scales searched
    scaling      factors of a layer's input channels that cost nothing at run time
    rounding     codes one column after the other, each making up for those before
    sensitivity  which layers are worth eight bits
    block        all of it for one block of a network

Nothing here knows a model or a file: :mod:`heliodor.see.calibration` walks through a PaliGemma.
"""
