"""Does DALI work here? One JPEG decoded, in a process of its own.

With the wrong driver or processor, native code can kill a process instead of raising. `doctor.py` asks.
"""

import io
import subprocess
import sys


def dali_decodes(device: str) -> tuple[bool, str]:
    """Return whether `try_dali` succeeds in a process of its own, and DALI's version or what went wrong."""
    trial = f"from {__name__} import try_dali; try_dali({device!r})"
    answer = subprocess.run([sys.executable, "-c", trial], capture_output=True, text=True, timeout=300)
    lines = (answer.stderr if answer.returncode else answer.stdout).strip().splitlines()
    return answer.returncode == 0, lines[-1] if lines else f"the process ended with code {answer.returncode}"


def try_dali(device: str) -> None:
    """Decode a JPEG on the "cpu", or on GPU 0 for "mixed"; print DALI's version, or exit with what is wrong."""
    try:
        import numpy as np
        from nvidia.dali import __cuda_version__, __version__, fn
        from nvidia.dali.pipeline import Pipeline
        from PIL import Image

        Image.new("RGB", (32, 24)).save(encoded := io.BytesIO(), "JPEG")
        jpeg = np.frombuffer(encoded.getvalue(), np.uint8)
        graph = Pipeline(batch_size=1, num_threads=1, device_id=None if device == "cpu" else 0)
        with graph:
            graph.set_outputs(fn.decoders.image(fn.external_source([[jpeg]], cycle=True), device=device))
        graph.build()
        (images,) = graph.run()
        assert images.shape() == [(24, 32, 3)]
        if device != "cpu":
            _try_nvjpeg(encoded.getvalue())
        sys.stdout.write(f"{__version__} for CUDA {__cuda_version__ // 1000}\n")
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _try_nvjpeg(jpeg: bytes) -> None:
    """Raise RuntimeError if the GPU itself decodes nothing: DALI would leave all of it to the CPU, without a word."""
    from nvidia import nvimgcodec

    kinds = nvimgcodec.BackendKind.HW_GPU_ONLY, nvimgcodec.BackendKind.GPU_ONLY, nvimgcodec.BackendKind.HYBRID_CPU_GPU
    if nvimgcodec.Decoder(backends=[nvimgcodec.Backend(kind) for kind in kinds]).decode(jpeg) is None:
        raise RuntimeError("nvJPEG decodes nothing, so that the CPU would: is it installed, and the driver new enough?")
