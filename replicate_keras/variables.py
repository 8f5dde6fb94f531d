"""Variables that Keras' files do not restore: those of optimizers, and the weights of LoRA.

Keras restores only `model.optimizer`, and only once that is built. Of a layer with LoRA it saves the merged weights,
from which the same training can't resume. The state of training holds both instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import keras

from replicate_core import InvalidInput

_NOT_TRACEABLE = (AttributeError, NotImplementedError, TypeError, ValueError)
"""Errors of a training step that can only run eagerly, when it is traced."""

_DEPTH_MAX = 3
"""Maximum nesting of lists and dictionaries that are searched for optimizers."""


def build(model: Any, config: dict[str, Any] | None, epochs: Any) -> None:
    """Create the variables of a model, if it has none yet.

    Args:
        model: the model of the user's script.
        config: the saved model's config for `build_from_config`.
        epochs: `data.Fit.epochs`; None outside of `fit`.

    Raises:
        InvalidInput: the model can't be built before it has seen data.
    """
    if not model.built and config is not None:
        model.build_from_config(config)
    if not _is_built(model) and epochs is not None and keras.config.backend() == "tensorflow":
        with suppress(*_NOT_TRACEABLE if model.run_eagerly else ()):
            _trace(model, epochs)  # other backends build the model before callbacks are called
    if not model.built and _is_built(model) and type(model).build is keras.Model.build:
        model.built = True  # only its parts are called: nothing is left to build
    if not model.built:
        raise InvalidInput(
            "the model has no weights yet that could be restored: call it once on a batch of data before fit, "
            "model(x[:1]), or each of its parts if it has no call()"
        )


def extra_state(model: Any, *, with_optimizers: bool) -> dict[str, Any]:
    """Return what Keras' own file does not hold: `optimizers` and `raw` of the state of training.

    Args:
        model: the model; nothing is returned for one of Keras 2.
        with_optimizers: whether to include the variables of all optimizers but `model.optimizer`, which a legacy HDF5
            file does not hold.
    """
    if not isinstance(model, keras.Model):
        return {}
    if not model.built and model.weights:
        model.built = True  # only its parts were called: Keras would not save it
    optimizers = optimizers_of(model)
    values = _variables(model, optimizers if with_optimizers else {})
    return {
        "optimizers": describe_optimizers(model, optimizers),
        "raw": {place: keras.ops.convert_to_numpy(variable) for place, variable in values.items()},
    }


def _is_built(model: Any) -> bool:
    return bool(model.weights) and all(layer.built for layer in _layers(model) if layer is not model)


def _trace(model: Any, epochs: Any) -> None:
    """Let TensorFlow trace a training step without running it: that creates all variables."""
    tensorflow = sys.modules["tensorflow"]
    specification = epochs.data_adapter.get_tf_dataset().element_spec
    tensorflow.function(model.train_step, autograph=False).get_concrete_function(specification)


def _positions(model: Any) -> dict[int, int]:
    """Return the identity of each weight to its position in `model.weights`."""
    return {id(weight): position for position, weight in enumerate(model.weights)}


def _layers(model: Any) -> list[Any]:
    found, known = [model], {id(model)}
    for layer in found:
        for part in layer._layers:  # noqa: SLF001
            if id(part) not in known:
                known.add(id(part))
                found.append(part)
    return found


# Optimizers.


def optimizers_of(model: Any) -> dict[str, Any]:
    """Return all optimizers that a model and its layers hold, keyed by where they are held."""
    found: dict[str, Any] = {}
    if getattr(model, "optimizer", None) is not None:
        found["optimizer"] = model.optimizer
    for number, layer in enumerate(_layers(model)):
        for name, value in sorted(vars(layer).items(), key=lambda item: item[0].startswith("_")):  # public names first
            for place, optimizer in _optimizers_in(value, name, _DEPTH_MAX):
                if not any(optimizer is other for other in found.values()):
                    found[f"{number}.{place}" if number else place] = optimizer
    return found


def _optimizers_in(value: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.optimizers.Optimizer):
        yield place, value
    elif isinstance(value, (list, tuple, dict)) and depth:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _optimizers_in(item, f"{place}[{key}]", depth - 1)


def describe_optimizers(model: Any, optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how each optimizer is built.

    The description holds the number of variables, and the positions in `model.weights` of what the optimizer trains:
    None if it trains anything else. The description of an optimizer that is not built is None.
    """
    positions = _positions(model)
    descriptions: dict[str, Any] = {}
    for place, optimizer in optimizers.items():
        if not optimizer.built:
            descriptions[place] = None
            continue
        trained = [positions.get(id(variable)) for variable in optimizer._trainable_variables]  # noqa: SLF001
        descriptions[place] = {"variables": len(optimizer.variables), "trains": None if None in trained else trained}
    return descriptions


def build_optimizers(model: Any, descriptions: dict[str, Any] | None) -> None:
    """Build the optimizers of a model like the saved ones, so that their variables can be loaded.

    Args:
        model: a built model.
        descriptions: the saved result of `describe_optimizers`; None in files of older versions.
    """
    held = optimizers_of(model)
    if descriptions is None:
        if "optimizer" in held and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        return
    weights = model.weights
    for place, saved in descriptions.items():
        trained = None if saved is None else saved["trains"]
        if place in held and not held[place].built and trained is not None and max(trained, default=0) < len(weights):
            held[place].build([weights[position] for position in trained])


def check_optimizers(model: Any, descriptions: dict[str, Any] | None) -> None:
    """Check that the optimizers of a model match the saved ones.

    Args:
        model: the model, after loading.
        descriptions: as for `build_optimizers`.

    Raises:
        InvalidInput: an optimizer does not match, and so was not restored.
    """
    held = optimizers_of(model)
    for place, saved in (descriptions or {}).items():
        if saved is None:
            continue
        if (optimizer := held.get(place)) is None:
            raise InvalidInput(
                f"the model that was saved had an optimizer {place!r}, and this one has none there: compile it as "
                "before, or start a new run: give another name, or leave resume out"
            )
        if not optimizer.built and saved["trains"] is None:
            raise InvalidInput(
                f"the optimizer {place!r} trains variables that are not weights of the model: build it before fit, by "
                "optimizer.build(variables), or keep them in the model"
            )
        if len(optimizer.variables) != saved["variables"]:
            raise InvalidInput(
                f"the optimizer {place!r} ({type(optimizer).__name__}) has {len(optimizer.variables)} variables, and "
                f"the one that was saved has {saved['variables']}: compile the model as before, or start a new "
                "run: give another name, or leave resume out"
            )


# Raw values, saved beside Keras' own file.


def restore_raw(model: Any, values: dict[str, Any]) -> None:
    """Assign the values that `extra_state` returned."""
    variables = _variables(model, optimizers_of(model))
    if missing := values.keys() - variables.keys():
        raise ValueError(
            f"{len(missing)} of the weights that were saved are not in this model, {min(missing)} for one: was LoRA "
            "enabled on the same layers?"
        )
    for place, value in values.items():
        variables[place].assign(value)


def fits(model: Any, values: dict[str, Any]) -> bool:
    """Tell whether a model has a variable of the right shape for each saved value."""
    variables = _variables(model, optimizers_of(model))
    return all(name in variables and tuple(variables[name].shape) == value.shape for name, value in values.items())


def has_lora(model: Any) -> bool:
    """Tell whether LoRA is enabled on any layer."""
    return bool(_lora_layers(model))


def _lora_layers(model: Any) -> list[Any]:
    """Return the layers on which LoRA is enabled."""
    return [layer for layer in _layers(model) if getattr(layer, "lora_enabled", False)]


def _variables(model: Any, optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that Keras' own file lacks: weights of LoRA, and of optimizers but `model.optimizer`."""
    found: dict[str, Any] = {}
    if adapted := _lora_layers(model):
        positions = _positions(model)
        for layer in adapted:
            found |= {f"weight {positions[id(weight)]}": weight for weight in layer.weights}
    for place, optimizer in optimizers.items():
        if place != "optimizer":
            found |= {f"{place} {position}": variable for position, variable in enumerate(optimizer.variables)}
    return found
