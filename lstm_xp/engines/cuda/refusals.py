"""What the engines for CUDA refuse alike."""


def refusal(problem, dtypes, least=0):
    """Why arrays of this library, of this dtype or on this device cannot be had; "" if they can.

    `least` is a compute capability, times ten; with 0, the device is not looked at.
    """
    if problem.array_library != "cupy":
        return f"it needs CuPy arrays, these are {problem.array_library}'s"
    if problem.dtype not in dtypes:
        return f"it computes {', '.join(dtypes)}, not {problem.dtype}"
    if least and (found := int(problem.device.compute_capability)) < least:
        return f"it needs compute capability {least / 10}, this device has {found / 10}"
    return ""
