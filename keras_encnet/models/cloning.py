"""`keras.models.clone_model` of an `EncNet`.

Keras takes a functional model apart, clones its layers and joins them to a plain functional model,
whatever the class was: no method of the class is asked. So the function that does this is replaced by
one that makes an `EncNet` from its config, and leaves all other models to Keras.
"""

import functools
import inspect

import keras
from keras.src.models import cloning


def clone_by_config(cls: type[keras.Model]) -> type[keras.Model]:
    """A class decorator: `keras.models.clone_model` gives models of this class, with fresh weights.

    As Keras does with other models, it compiles a clone of a compiled model.
    """
    clone_functional = getattr(cloning, "_clone_functional_model", None)
    if clone_functional is None:  # another version of Keras
        return cls

    @functools.wraps(clone_functional)
    def clone(model, clone_function, input_tensors=None, call_function=None):
        if not isinstance(model, cls):
            return clone_functional(model, clone_function, input_tensors, call_function)
        given = {
            "input_tensors": input_tensors,
            "clone_function": _own(clone_function),
            "call_function": call_function,
        }
        _refuse({name: value for name, value in given.items() if value is not None}, model)
        made = type(model).from_config(model.get_config())
        if model.compiled:
            made.compile_from_config(model.get_compile_config())
        return made

    cloning._clone_functional_model = clone
    return cls


def _own(clone_function):
    """The user's function in the one that Keras wraps around it, or around its own."""
    function = inspect.getclosurevars(clone_function).nonlocals.get("clone_function", clone_function)
    return None if getattr(function, "__module__", None) == cloning.__name__ else function


def _refuse(given, model):
    if given:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in given)} must be None when `clone_model` clones an "
            f"EncNet, which is made from its config. Received: {given} for {model.name!r}. "
            "`model.heads_network()`, a plain functional model, can be cloned with them."
        )
