"""The trained network as a version of an MLflow model, which `mlflow models serve` offers to others.

It is registered as ONNX, so the server needs none of this project's code, and loading it runs none.
"""

import shlex
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samebits.errors import UserError, printable
from samebits.prediction import onnx_export
from samebits.prediction.trained import Trained
from samebits.tracking import Store, open_store, store_errors, tracking_uri, without_password

if TYPE_CHECKING:
    import onnx
    from mlflow.entities import Run

PREDICTED = "predicted"
_TAG = "samebits.checkpoint_md5"
_REQUIREMENTS = ("mlflow", "numpy", "onnx", "onnxruntime")
# Tags of the result's run that its model carries too.
_HASHES = ("samebits.content", "samebits.data_md5", "samebits.parameters_md5", "samebits.commit", "samebits.dirty")


def register(folder: Path, trained: Trained, name: str) -> None:
    """Register the network as a version of model `name`, linked to the run of its result, and print how to serve it.

    A checkpoint that has a version keeps it. Raises UserError if MLflow fails or holds no run of the checkpoint.
    """
    if not name.strip() or not name.isprintable() or set(name) & set("/:'\"%\\"):
        raise UserError(f"{printable(name)!r} cannot be the name of a model: use letters, digits, spaces, - and _")
    uri = tracking_uri(folder)
    with store_errors(folder):
        store = open_store(folder)
        with store.lock:  # two that register at once get one version
            if number := _find_version(store, name, trained.md5):
                print(f"{name} version {number} is this very checkpoint already")
            else:
                run = _run(store, trained.md5, uri)
                number = _create_version(store, uri, name, trained, run, *_checked(folder, trained))
                print(f"registered {name} version {number}, the result of run {run.info.run_id}")
    model_uri = shlex.quote(f"models:/{name}/{number}")
    print(
        f"serve it: MLFLOW_TRACKING_URI={shlex.quote(without_password(uri))} mlflow models serve -m {model_uri} --env-manager local -p 5001"
    )


def for_serving(model: "onnx.ModelProto", class_names: tuple[str, ...]) -> "onnx.ModelProto":
    """Make a model fit for requests: it takes pixels as float32, checks them, and names the class.

    The output `predicted` is the name of the most probable class of each image (N,). Pixels that are not whole numbers from 0
    to 255 fail the run: as uint8, MLflow would truncate them silently, and shares from 0 to 1 would all be black.
    """
    from onnx import TensorProto, helper

    for node in model.graph.node:
        node.input[:] = ["pixels" if name == onnx_export.INPUT else name for name in node.input]
    (images,) = model.graph.input
    images.type.tensor_type.elem_type = TensorProto.FLOAT
    # ONNX has no assertion, but taking item 1 of a list of one fails, and onnxruntime's error names the node.
    checks = [
        helper.make_node("Cast", [onnx_export.INPUT], ["whole"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["whole"], ["whole_float"], to=TensorProto.FLOAT),
        helper.make_node("Equal", [onnx_export.INPUT, "whole_float"], ["is_pixel"]),
        helper.make_node("Not", ["is_pixel"], ["is_wrong"]),
        helper.make_node("Cast", ["is_wrong"], ["wrong"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["wrong"], ["any_wrong"], keepdims=0),
        helper.make_node(
            "Gather", ["zero", "any_wrong"], ["nothing"], name="pixels must be whole numbers from 0 to 255"
        ),
        helper.make_node("Add", [onnx_export.INPUT, "nothing"], ["checked"]),
        helper.make_node("Cast", ["checked"], ["pixels"], to=TensorProto.UINT8),
    ]
    for node in reversed(checks):
        model.graph.node.insert(0, node)
    encoded: Any = [name.encode() for name in class_names]
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]))
    model.graph.initializer.append(helper.make_tensor("class_names", TensorProto.STRING, [len(class_names)], encoded))
    model.graph.node.append(helper.make_node("ArgMax", [onnx_export.OUTPUT], ["most_probable"], axis=1, keepdims=0))
    model.graph.node.append(helper.make_node("Gather", ["class_names", "most_probable"], [PREDICTED]))
    model.graph.output.insert(0, helper.make_tensor_value_info(PREDICTED, TensorProto.STRING, ["batch"]))
    return model


def _checked(folder: Path, trained: Trained) -> "tuple[onnx.ModelProto, Any]":
    """Return the model, which agrees with the network, and two images as an example of its input."""
    import onnx

    images, _ = onnx_export.images_to_check(folder, trained)
    model = for_serving(onnx_export.convert(trained), trained.checkpoint.description.class_names)
    with tempfile.TemporaryDirectory(prefix="samebits-") as temporary:
        path = Path(temporary) / "model.onnx"
        onnx.save_model(model, str(path))
        onnx_export.check(path, trained.checkpoint, images, np.float32)
    return model, images[:2].astype(np.float32)


def _run(store: Store, md5: str, uri: str) -> "Run":
    found = f"tags.`{_TAG}` = '{md5}'"
    if runs := store.client.search_runs([store.experiment_id], found, order_by=["attributes.start_time ASC"]):
        return runs[0]
    raise UserError(
        f"MLflow at {without_password(uri)} holds no run of this checkpoint ({_TAG} {md5}): "
        "`samebits track [REV]` records it"
    )


def _find_version(store: Store, name: str, md5: str) -> str | None:
    versions = store.client.search_model_versions(f"name = '{name}'")
    return next((str(each.version) for each in versions if each.tags.get(_TAG) == md5), None)


def _create_version(
    store: Store, uri: str, name: str, trained: Trained, run: "Run", model: "onnx.ModelProto", example: Any
) -> str:
    import mlflow
    import mlflow.onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=store.experiment_id)  # the model's files lie with those of the runs
    channels, height, width = trained.checkpoint.description.image_shape
    classes = len(trained.checkpoint.description.class_names)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, height, width, channels))]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(str), (-1,), PREDICTED),
                TensorSpec(np.dtype(np.float32), (-1, classes), onnx_export.OUTPUT),
            ]
        ),
    )
    tags = {_TAG: trained.md5} | {key: run.data.tags[key] for key in _HASHES if key in run.data.tags}
    logged = Model.log(
        artifact_path=None,
        name=name,
        flavor=mlflow.onnx,
        run_id=run.info.run_id,
        tags=tags,
        metadata=tags,
        onnx_model=model,
        save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],  # a server without a GPU would warn of the missing one
        signature=signature,
        input_example=example,
        pip_requirements=[f"{each}=={version(each)}" for each in _REQUIREMENTS],
    )
    if not store.client.search_registered_models(f"name = '{name}'"):
        store.client.create_registered_model(name)
    created = store.client.create_model_version(
        name, logged.model_uri, run.info.run_id, tags=tags, model_id=logged.model_id
    )
    return str(created.version)
