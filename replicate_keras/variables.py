"""What a model holds that Keras' files do not give back by themselves: its optimizers, and the weights of LoRA.

Keras restores an optimizer only once it is built, and none of those beside `model.optimizer`; and of a layer with
LoRA it saves the product, with which the training can't go on. Both are told in the state of training instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import keras

from replicate_core import InvalidInput

_UNTRACED = (AttributeError, NotImplementedError, TypeError, ValueError)
"""What a step of training raises that is written to be computed at once."""

_DEPTH = 3
"""Of lists and dictionaries in which optimizers are looked for."""


def build(model: Any, config: dict[str, Any] | None, epochs: Any) -> None:
    """Create the variables of a model, if it has none yet.

    Args:
        model: of the user's script.
        config: how the model was built that was saved: `build_from_config` takes it.
        epochs: that `fit` goes through: see `data.Fit`; None outside of `fit`.

    Raises:
        InvalidInput: this model can't be built before it has seen data.
    """
    if not model.built and config is not None:
        model.build_from_config(config)
    if not _is_built(model) and epochs is not None and keras.config.backend() == "tensorflow":
        with suppress(*_UNTRACED if model.run_eagerly else ()):
            _trace(model, epochs)  # the other backends build it before a callback sees it
    if not model.built and _is_built(model) and type(model).build is keras.Model.build:
        model.built = True  # it is never called itself, only its parts are: nothing is left to build
    if not model.built:
        raise InvalidInput(
            "the model has no weights yet that could be restored: call it once on a batch of data before fit, "
            "model(x[:1]), or each of its parts if it has no call()"
        )


def told_of(model: Any, *, with_optimizers: bool) -> dict[str, Any]:
    """What is saved of a model beside Keras' own file: `optimizers` and `raw` of the state of training.

    Args:
        model: what is trained; one of Keras 2 has nothing to tell.
        with_optimizers: whether the values of all optimizers but `model.optimizer` are saved, too: a legacy HDF5 file
            knows nothing of them.
    """
    if not isinstance(model, keras.Model):
        return {}
    if not model.built and model.weights:
        model.built = True  # trained by its parts, and never called itself: Keras would not save it
    optimizers = optimizers_of(model)
    values = _variables(model, optimizers if with_optimizers else {})
    return {
        "optimizers": describe_optimizers(model, optimizers),
        "raw": {place: keras.ops.convert_to_numpy(variable) for place, variable in values.items()},
    }


def _is_built(model: Any) -> bool:
    return bool(model.weights) and all(layer.built for layer in _layers(model) if layer is not model)


def _trace(model: Any, epochs: Any) -> None:
    """Let TensorFlow go through a step of the training without computing it: all variables are created by that."""
    tensorflow = sys.modules["tensorflow"]
    specification = epochs.data_adapter.get_tf_dataset().element_spec
    tensorflow.function(model.train_step, autograph=False).get_concrete_function(specification)


def _positions(model: Any) -> dict[int, int]:
    """By the identity of a weight, where it stands in `model.weights`."""
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
    """All optimizers that a model and its layers hold, by where they are held."""
    found: dict[str, Any] = {}
    if getattr(model, "optimizer", None) is not None:
        found["optimizer"] = model.optimizer
    for number, layer in enumerate(_layers(model)):
        for name, value in sorted(vars(layer).items(), key=lambda item: item[0].startswith("_")):  # public names first
            for place, optimizer in _optimizers_in(value, name, _DEPTH):
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
    """How to build each of a model's optimizers as it is built now: for which weights of the model.

    An optimizer has the number of its variables, and the positions of what it trains in `model.weights`: None if it
    trains something else, too. One that is not built has None in place of both.
    """
    positions = _positions(model)
    told: dict[str, Any] = {}
    for place, optimizer in optimizers.items():
        if not optimizer.built:
            told[place] = None
            continue
        trained = [positions.get(id(variable)) for variable in optimizer._trainable_variables]  # noqa: SLF001
        told[place] = {"variables": len(optimizer.variables), "trains": None if None in trained else trained}
    return told


def build_optimizers(model: Any, told: dict[str, Any] | None) -> None:
    """Build the optimizers of a model as others were built, so that what was saved of those can be loaded.

    Args:
        model: it is built.
        told: as `describe_optimizers` told it; None if the state was saved by a version that did not.
    """
    held = optimizers_of(model)
    if told is None:
        if "optimizer" in held and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        return
    weights = model.weights
    for place, saved in told.items():
        trained = None if saved is None else saved["trains"]
        if place in held and not held[place].built and trained is not None and max(trained, default=0) < len(weights):
            held[place].build([weights[position] for position in trained])


def check_optimizers(model: Any, told: dict[str, Any] | None) -> None:
    """Check that the optimizers of a model are those that were saved.

    Args:
        model: what was saved is loaded into it.
        told: as for `build_optimizers`.

    Raises:
        InvalidInput: one of them is not, and so was not restored.
    """
    held = optimizers_of(model)
    for place, saved in (told or {}).items():
        if saved is None:
            continue
        if (optimizer := held.get(place)) is None:
            raise InvalidInput(
                f"the model that was saved had an optimizer {place!r}, and this one has none there: compile it as "
                "before, or begin anew: another name, or no resume"
            )
        if not optimizer.built and saved["trains"] is None:
            raise InvalidInput(
                f"the optimizer {place!r} trains variables that are not weights of the model: build it before fit, by "
                "optimizer.build(variables), or keep them in the model"
            )
        if len(optimizer.variables) != saved["variables"]:
            raise InvalidInput(
                f"the optimizer {place!r} ({type(optimizer).__name__}) has {len(optimizer.variables)} variables, and "
                f"the one that was saved has {saved['variables']}: compile the model as before, or begin anew: "
                "another name, or no resume"
            )


# What is saved as it is, beside Keras' own file.


def restore_raw(model: Any, values: dict[str, Any]) -> None:
    """Give variables the values that `told_of` told of them."""
    variables = _variables(model, optimizers_of(model))
    if missing := values.keys() - variables.keys():
        raise ValueError(
            f"{len(missing)} of the weights that were saved are not in this model, {min(missing)} for one: was LoRA "
            "enabled on the same layers?"
        )
    for place, value in values.items():
        variables[place].assign(value)


def fits(model: Any, values: dict[str, Any]) -> bool:
    """Tell whether a model has all variables that values were saved of."""
    variables = _variables(model, optimizers_of(model))
    return all(name in variables and tuple(variables[name].shape) == value.shape for name, value in values.items())


def has_lora(model: Any) -> bool:
    """Tell whether LoRA is enabled on any layer."""
    return bool(_adapted(model))


def _adapted(model: Any) -> list[Any]:
    """The layers on which LoRA is enabled."""
    return [layer for layer in _layers(model) if getattr(layer, "lora_enabled", False)]


def _variables(model: Any, optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """What Keras' own file does not hold: weights of LoRA, and of these optimizers all but `model.optimizer`."""
    found: dict[str, Any] = {}
    if adapted := _adapted(model):
        positions = _positions(model)
        for layer in adapted:
            found |= {f"weight {positions[id(weight)]}": weight for weight in layer.weights}
    for place, optimizer in optimizers.items():
        if place != "optimizer":
            found |= {f"{place} {position}": variable for position, variable in enumerate(optimizer.variables)}
    return found
