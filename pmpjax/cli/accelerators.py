"""Accelerators that a machine has and JAX does not show: which, and why.

Nothing here asks JAX: each function is of the file system, environment and versions that it is given.
"""

from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_FILES = {
    "cuda": ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*"),
    "tpu": ("dev/accel[0-9]*",),
}
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_CHIPS_PER_HOST_BOUNDS", "TPU_NAME", "TPU_WORKER_ID")
_NAMES = {"cuda": "an NVIDIA GPU", "tpu": "a TPU"}
_PLATFORMS = {"cuda": {"cuda", "gpu"}, "tpu": {"tpu"}}
_PLUGINS = {"cuda": {"jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13"}, "tpu": {"libtpu": "tpu"}}


def attached(root: Path, environment: Mapping[str, str], installed: Mapping[str, str]) -> dict[str, str]:
    """The kinds of accelerator ("cuda", "tpu") of the machine whose file system is at `root`, each with its file.

    Newer TPUs have a file of /dev/vfio, as other devices handed to a virtual machine have: it counts where libtpu is
    installed or a variable that TPU machines set is there.

    >>> attached(Path("/nonexistent"), {"TPU_NAME": "local"}, {})
    {}
    """
    patterns = dict(_FILES)
    if "libtpu" in installed or any(name in environment for name in _TPU_VARIABLES):
        patterns["tpu"] += ("dev/vfio/[0-9]*",)
    found = {kind: [path for glob in globs for path in sorted(root.glob(glob))] for kind, globs in patterns.items()}
    return {kind: f"/{paths[0].relative_to(root).as_posix()}" for kind, paths in found.items() if paths}


def plugins() -> dict[str, str]:
    """The versions of what JAX needs for accelerators, of that which is installed here; jax itself is always in it."""
    names = ("jax", *(name for kind in _PLUGINS.values() for name in kind))
    return {name: metadata.version(name) for name in names if _is_installed(name)}


def missed(
    kind: str,
    file: str,
    environment: Mapping[str, str],
    installed: Mapping[str, str],
    required: Iterable[str],
) -> str:
    """Why JAX shows no device of this kind although `file` says that there is one, and what to do: one sentence.

    Args:
        installed: as of `plugins`.
        required: the requirements of the installed jax, as its metadata have them.

    >>> missed("tpu", "/dev/accel0", {}, {"jax": "0.7.2"}, [])
    'a TPU (/dev/accel0) is here, but JAX has no plugin for it: pip install "pmpjax[tpu]"'
    """
    here = f"{_NAMES[kind]} ({file}) is here, but"
    asked = environment.get("JAX_PLATFORMS", "")
    if asked and not _PLATFORMS[kind] & set(asked.lower().split(",")):
        return f"{here} JAX_PLATFORMS is {asked!r} and leaves it out: unset JAX_PLATFORMS"
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if kind == "cuda" and visible in ("", "-1"):
        return f"{here} CUDA_VISIBLE_DEVICES is {visible!r} and hides it: unset CUDA_VISIBLE_DEVICES"
    if file.startswith("/proc"):
        return f"{here} there is no /dev/nvidia0: start the container with its GPUs (docker run --gpus all)"
    ours = {name: extra for name, extra in _PLUGINS[kind].items() if name in installed}
    if not ours:
        return f'{here} JAX has no plugin for it: pip install "pmpjax[{kind}]"'
    for requirement in map(Requirement, required):
        version = installed.get(requirement.name, "")
        if requirement.name in ours and not requirement.specifier.contains(version, prereleases=True):
            return (
                f"{here} {requirement.name} {version} does not match jax {installed['jax']}, which wants "
                f'{requirement.specifier}: pip install "jax[{ours[requirement.name]}]=={installed["jax"]}"'
            )
    check = "`nvidia-smi` must list it" if kind == "cuda" else "one process at a time can have it: end the others"
    return f"{here} JAX cannot start it, with a plugin that matches: {check}"


def refused(environment: Mapping[str, str], said: str) -> str:
    """What to say where JAX cannot start any backend: the variable that asked for one, or what JAX said."""
    asked = environment.get("JAX_PLATFORMS", "")
    if not asked:
        return f"JAX cannot start a backend: {said}"
    return f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device here: unset it to compute on what there is"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
