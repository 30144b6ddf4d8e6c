"""Runs in processes of its own: `python -m tests.train.on_devices '{...}'` trains a tiny decoder and prints its losses.

Settings: meshes [[data, fsdp, tensor], ...] (null: no mesh), steps, accumulate, scan_layers, checkpoints, save_every,
process, processes, port. Prints {"losses": one list a mesh, "resumed_at": ..., "sharded": parts of each embedding,
"temporary": bytes on a device that the step needs on top of its arguments, for a batch of 64, by mesh where asked for}.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np

from pmpjax.costs.compiled import memory
from pmpjax.data import Rows, token_stream
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.train import MeshConfig, OptimizerConfig, Saving, adamw, make_mesh, train, train_step
from pmpjax.train.mesh import check_mesh, data_share, place, place_batch
from pmpjax.train.step import step_function

CONFIG = DecoderConfig(vocabulary=64, width=16, layers=2, heads=4, key_value_heads=2, hidden=32, tied_embeddings=False)
BATCH = 16


class Source:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return np.random.default_rng(int(index)).integers(64, size=17).astype(np.int32)


def run(settings, sizes):
    decoder = Decoder(dataclasses.replace(CONFIG, scan_layers=settings.get("scan_layers", False)))
    params = initialise(decoder, jax.random.key(0), np.zeros((1, 4), np.int32))
    mesh, (process, processes) = None, (0, 1)
    if sizes is not None:
        mesh = make_mesh(MeshConfig(*sizes))
        check_mesh(mesh, CONFIG, BATCH, settings.get("accumulate", 1))
        process, processes = data_share(mesh)
    stream = token_stream(Source(), batch=BATCH, seed=1, process=process, processes=processes)
    return train(
        train_step(
            example_losses(decoder),
            adamw(OptimizerConfig(learning_rate=1e-2, warmup_steps=3)),
            mesh=mesh,
            accumulate=settings.get("accumulate", 1),
        ),
        jax.tree.map(np.asarray, params),
        stream.map(lambda tokens: Rows(tokens, np.full(len(tokens), 17, np.int32))),
        settings["steps"],
        saving=Saving(Path(settings["checkpoints"]), settings["save_every"]) if "checkpoints" in settings else None,
    )


def temporary(sizes):
    decoder, mesh = Decoder(CONFIG), make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    optimizer, tokens = adamw(OptimizerConfig()), np.zeros((64, 65), np.int32)
    params = initialise(decoder, jax.random.key(0), tokens[:1])
    state = place((params, optimizer.init(params)), mesh)
    batch = place_batch(Rows(tokens, tokens[:, 0]), mesh)
    compiled = step_function(example_losses(decoder), optimizer, mesh=mesh).lower(*state, (batch,)).compile()
    return memory(compiled).temporary


def main(settings):
    if settings.get("processes", 1) > 1:
        jax.distributed.initialize(f"127.0.0.1:{settings['port']}", settings["processes"], settings["process"])
    trained = [run(settings, sizes) for sizes in settings["meshes"]]
    parts = [
        len({str(index) for index in one.params["trunk"]["embedding"].sharding.devices_indices_map((64, 16)).values()})
        for one in trained
    ]
    print(
        json.dumps(
            {
                "losses": [t.losses.tolist() for t in trained],
                "resumed_at": trained[-1].resumed_at,
                "sharded": parts,
                "temporary": [temporary(sizes) for sizes in settings.get("temporary", ())],
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
