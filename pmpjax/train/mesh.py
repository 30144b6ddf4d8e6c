"""One rule that says where every array of a run lies: meshes of devices, and partitions by a leaf's path."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, example_losses
from pmpjax.models.layers import ROWS, VOCABULARY

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

_RULES = ((ROWS, BATCH_AXES), (VOCABULARY, "tensor"))
_INTO_HEADS = ("query", "key", "value", "gate", "up")
_OUT_OF_HEADS = ("output", "down")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are arranged; the product of the three is their number.

    Attributes:
        data: copies of the model, each with its part of the batch; -1 takes the devices that are left.
        fsdp: parts that parameters, optimizer state and costates are cut into; each has a part of the batch too.
        tensor: parts that heads and hidden features are cut into.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh axes must be positive, and one of them may be -1: found data {self.data}, fsdp {self.fsdp}, "
                f"tensor {self.tensor}"
            )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh [data, fsdp, tensor] of these devices (all of them when None).

    Raises:
        ValueError: the axes do not multiply to the number of devices; names both.

    >>> dict(make_mesh(MeshConfig(), jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dataclasses.astuple(config)
    known = math.prod(size for size in sizes if size != -1)
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        shown = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise ValueError(
            f"a mesh of {shown} does not fit {len(devices)} devices; set the axes so that their product is "
            f"{len(devices)}, or one of them to -1"
        )
    shape = tuple(len(devices) // known if size == -1 else size for size in sizes)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def check_mesh(mesh: Mesh, decoder: DecoderConfig, batch: int, accumulate: int = 1) -> None:
    """Raises ValueError where the mesh does not divide the batch or the decoder; names axis, sizes and a hint."""
    shards = batch_shards(mesh)
    if batch % (shards * accumulate):
        raise ValueError(
            f"batch {batch} is not a multiple of data x fsdp x accumulate ({mesh.shape['data']} x "
            f"{mesh.shape['fsdp']} x {accumulate} = {shards * accumulate}); change batch, accumulate or the mesh"
        )
    widths = {"width": decoder.width}
    features = {name: getattr(decoder, name) for name in ("vocabulary", "heads", "key_value_heads", "hidden")}
    for axis, sizes in (("fsdp", widths), ("tensor", features)):
        for name, size in sizes.items():
            if size % mesh.shape[axis]:
                raise ValueError(
                    f"{name} {size} is not a multiple of the mesh axis {axis} ({mesh.shape[axis]}); "
                    f"lower {axis} or change {name}"
                )


def partition(path: Sequence[str], rank: int) -> PartitionSpec:
    """The mesh axes along which a leaf is cut, by its path and number of axes; () leaves it whole on every device.

    Products into heads and hidden features are (fsdp, tensor), those out of them, the embedding and the output
    (tensor, fsdp), the biases of the former (tensor,). A leaf of more axes is a stack of layers and has whole leading
    axes. Optimizer state and costates have their parameters' paths at the end of theirs, hence the same partition.

    >>> tuple(partition(("trunk", "layers_0", "query", "kernel"), 2))
    ('fsdp', 'tensor')
    >>> tuple(partition(("mu", "layers", "down", "kernel"), 3)), tuple(partition(("trunk", "norm", "scale"), 1))
    ((None, 'tensor', 'fsdp'), ())
    """
    parent, name = ("", "", *path)[-2:]
    axes: tuple[str, ...] = ()
    if name == "kernel" and parent in _INTO_HEADS:
        axes = ("fsdp", "tensor")
    elif (name == "kernel" and parent in _OUT_OF_HEADS) or name in ("embedding", "output"):
        axes = ("tensor", "fsdp")
    elif name == "bias" and parent in _INTO_HEADS:
        axes = ("tensor",)
    if not axes or rank < len(axes):
        return PartitionSpec()
    return PartitionSpec(*(None,) * (rank - len(axes)), *axes)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of parameters, optimizer state or costates.

    Raises:
        ValueError: a leaf's axis is not a multiple of its mesh axis; names leaf, sizes and a hint.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = path_names(path)
        spec = partition(names, np.ndim(leaf))
        for size, axis in zip(np.shape(leaf), spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"{'/'.join(names)} {list(np.shape(leaf))}: {size} is not a multiple of the mesh axis {axis} "
                    f"({mesh.shape[axis]}); lower {axis} or change that size"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of, tree)


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a leaf's path: keys, attributes or indices, as text."""
    return tuple(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def constrain(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a jitted function: the tree, lying as the rule says."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))


def sharded_losses(decoder: Decoder, mesh: Mesh | None) -> Callable[[Any, Rows], Array]:
    """(params, rows [N, L]) -> l_n, [N]: `example_losses`, whose rows and hidden states are cut along the batch."""
    losses = example_losses(decoder)
    if mesh is None:
        return losses
    cut = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def sharded(params: Any, rows: Rows) -> Array:
        with laid_out(mesh):
            return losses(params, jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, cut), rows))

    return sharded


def place(tree: Any, mesh: Mesh | None) -> Any:
    """A copy of the tree on the devices, lying as the rule says; every process gives the same values."""
    if mesh is None:
        # With its dtype said, a weakly typed leaf becomes a plain one: the step would be compiled twice otherwise.
        return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf), copy=True), tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(
            np.shape(leaf), sharding, lambda index: np.array(np.asarray(leaf)[index])
        ),
        tree,
        shardings(tree, mesh),
    )


@contextlib.contextmanager
def laid_out(mesh: Mesh | None) -> Iterator[None]:
    """In it functions are traced whose hidden states are cut as `place_batch` cuts a batch, and embeddings along tensor
    alone; nothing without a mesh.

    Without it each device computes every row with its part of the weights: 8 to 200 times the memory, by the mesh.

    >>> from pmpjax.models.layers import laid
    >>> def constrained():
    ...     return "sharding_constraint" in str(jax.make_jaxpr(lambda x: laid(x, ROWS))(jnp.ones((4, 2))))
    >>> with laid_out(make_mesh(MeshConfig(), jax.devices()[:1])):
    ...     inside = constrained()
    >>> inside, constrained()
    (True, False)
    """
    if mesh is None:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(_RULES):
        yield


def place_batch(batch: Any, mesh: Mesh | None) -> Any:
    """This process's rows of the global batch, on its devices; returns at once, the transfer goes on."""
    if mesh is None:
        return jax.device_put(batch)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    _, processes = data_share(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), (len(leaf) * processes, *np.shape(leaf)[1:])
        ),
        batch,
    )


def batch_shards(mesh: Mesh) -> int:
    """Parts that the batch is cut into: data * fsdp."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def data_share(mesh: Mesh) -> tuple[int, int]:
    """(process, processes): which share of each global batch this process reads, for `token_stream`.

    Processes that differ along the tensor axis alone read the same share.

    Raises:
        ValueError: two processes share a part of their rows, which no share of a stream gives.
    """
    owners: dict[int, set[int]] = {}
    for (data, fsdp, _), device in np.ndenumerate(mesh.devices):
        owners.setdefault(device.process_index, set()).add(data * mesh.shape["fsdp"] + fsdp)
    groups = sorted({tuple(sorted(shards)) for shards in owners.values()})
    if sum(map(len, groups)) != batch_shards(mesh) or len(set(map(len, groups))) > 1:
        raise ValueError(
            f"the mesh {dict(mesh.shape)} gives processes overlapping parts of a batch; let the devices of a process "
            "be a multiple or a divisor of the tensor axis"
        )
    return groups.index(tuple(sorted(owners[jax.process_index()]))), len(groups)
