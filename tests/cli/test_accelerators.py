"""What a made-up machine has of accelerators, and why JAX does not show it."""

import pytest

from pmpjax.cli.accelerators import attached, missed, plugins, refused

JAX = {"jax": "0.10.2"}
REQUIRED = [
    "jaxlib<=0.10.2,>=0.10.2",
    'libtpu==0.0.42.*; extra == "tpu"',
    'jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda12"',
]


def machine(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("files", "environment", "installed", "expected"),
    [
        ([], {}, {}, {}),
        (["dev/null", "dev/nvram", "dev/vfio/vfio"], {"TPU_NAME": "local"}, {}, {}),
        (["dev/nvidia1", "dev/nvidia0", "dev/nvidiactl"], {}, {}, {"cuda": "/dev/nvidia0"}),
        (["proc/driver/nvidia/gpus/0000/information"], {}, {}, {"cuda": "/proc/driver/nvidia/gpus/0000"}),
        (["proc/driver/nvidia/version"], {}, {}, {}),
        (["dev/accel0"], {}, {}, {"tpu": "/dev/accel0"}),
        (["dev/accel/accel0"], {}, {}, {}),  # Linux's own folder of accelerators: another maker's
        (["dev/vfio/0"], {}, {}, {}),
        (["dev/vfio/0"], {"TPU_WORKER_ID": "0"}, {}, {"tpu": "/dev/vfio/0"}),
        (["dev/vfio/0"], {}, {"libtpu": "0.0.42"}, {"tpu": "/dev/vfio/0"}),
        (["dev/nvidia0", "dev/accel0"], {}, {}, {"cuda": "/dev/nvidia0", "tpu": "/dev/accel0"}),
    ],
)
def test_what_a_machine_has(tmp_path, files, environment, installed, expected):
    assert attached(machine(tmp_path, *files), environment, installed) == expected


@pytest.mark.parametrize(
    ("kind", "file", "environment", "installed", "hint"),
    [
        ("cuda", "/dev/nvidia0", {}, {}, 'pip install "pmpjax[cuda]"'),
        ("tpu", "/dev/accel0", {}, {"jax-cuda12-plugin": "0.10.2"}, 'pip install "pmpjax[tpu]"'),
        ("cuda", "/dev/nvidia0", {}, {"jax-cuda12-plugin": "0.7.2"}, 'pip install "jax[cuda12]==0.10.2"'),
        ("tpu", "/dev/accel0", {}, {"libtpu": "0.0.21.1"}, 'pip install "jax[tpu]==0.10.2"'),
        ("cuda", "/dev/nvidia0", {}, {"jax-cuda12-plugin": "0.10.2"}, "nvidia-smi"),
        ("tpu", "/dev/vfio/0", {}, {"libtpu": "0.0.42.1"}, "end the others"),
        ("tpu", "/dev/accel0", {"JAX_PLATFORMS": "cpu"}, {"libtpu": "0.0.42.1"}, "unset JAX_PLATFORMS"),
        ("cuda", "/dev/nvidia0", {"JAX_PLATFORMS": "tpu,cpu"}, {}, "unset JAX_PLATFORMS"),
        ("cuda", "/dev/nvidia0", {"JAX_PLATFORMS": "CUDA,cpu"}, {}, 'pip install "pmpjax[cuda]"'),
        ("cuda", "/dev/nvidia0", {"CUDA_VISIBLE_DEVICES": "-1"}, {}, "unset CUDA_VISIBLE_DEVICES"),
        ("cuda", "/proc/driver/nvidia/gpus/0000", {}, {}, "--gpus all"),
    ],
)
def test_why_it_is_not_seen(kind, file, environment, installed, hint):
    reason = missed(kind, file, environment, JAX | installed, REQUIRED)
    assert (file in reason and reason.endswith(hint)) or hint in reason.split(": ", 1)[1]


def test_a_variable_that_asks_for_what_is_not_there_is_named():
    assert "JAX_PLATFORMS is 'cuda'" in refused({"JAX_PLATFORMS": "cuda"}, "said")
    assert refused({}, "said").endswith("said")


def test_versions_of_plugins_are_those_installed():
    found = plugins()
    assert "jax" in found and set(found) <= {"jax", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"}
