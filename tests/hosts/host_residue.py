"""What a host's process holds at a moment; copied beside the probes that run inside the host."""

import gc
import hashlib
import inspect
import random

import numpy
import psutil
import torch

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
GLOBAL = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def attributes(*owners):
    """Every attribute of classes and modules: functions by identity, plain values by value."""
    return {
        f"{getattr(owner, '__module__', '')}.{owner.__name__}.{name}": _said(value)
        for owner in owners
        for name, value in vars(owner).items()
        if name != "__slotnames__"  # Python keeps it there for everybody who copies an object
    }


def _said(value):
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    if callable(value) or inspect.isdatadescriptor(value) or isinstance(value, staticmethod):
        return f"{type(value).__name__} {id(value):x}"
    return type(value).__name__


def keys(thing):
    """The class of an object and the names of what it holds.

    A method of its own class is no change: ComfyUI takes a patch back by putting it there.
    """
    own = [name for name, value in vars(thing).items() if not _is_own_method(thing, name, value)]
    return [type(thing).__qualname__, *sorted(map(str, own))]


def _is_own_method(thing, name, value):
    if getattr(value, "__self__", None) is not thing:
        return False
    return value.__func__ is getattr(type(thing), name, None)


def network(root):
    """Hooks of a network's modules, what each module holds, and a digest of the weights."""
    hooks = {
        name: count
        for name, module in root.named_modules()
        if (count := sum(len(getattr(module, kind, None) or ()) for kind in HOOKS))
    }
    held = {name: [module.training, *keys(module)] for name, module in root.named_modules()}
    weights = {
        name: f"{value.requires_grad} {value.grad is None} "
        + hashlib.sha256(_bytes(value.detach().cpu())).hexdigest()
        for name, value in root.named_parameters()
    }
    return {"hooks": hooks, "held": held, "weights": weights}


def _bytes(value):
    """The numbers of a weight; of a thin one, whose rows overlap, what they are made of."""
    if value.untyped_storage().nbytes() < value.nbytes:
        value = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return value.contiguous().flatten().view(torch.uint8).numpy()


def randomness():
    """Digests of the states of torch, numpy and Python."""
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": numpy.random.get_state()[1].tobytes(),
        "python": repr(random.getstate()).encode(),
    }
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


def alive(*names):
    """How many tensors there are, objects of this project's classes, and of classes so named."""
    gc.collect()
    found = dict.fromkeys(("Tensor", *names), 0)
    for kind in map(type, gc.get_objects()):
        name = kind.__name__
        if str(kind.__module__).startswith("apl_"):
            name = f"{kind.__module__}.{name}"
            found.setdefault(name, 0)
        elif issubclass(kind, torch.Tensor):
            name = "Tensor"
        if name in found:
            found[name] += 1
    return found


def megabytes():
    """The process's resident memory."""
    return psutil.Process().memory_info().rss / 2**20


def everywhere():
    """What does not belong to one host."""
    module = torch.nn.modules.module
    return {
        "global hooks": {name: len(getattr(module, name, ())) for name in GLOBAL},
        "torch": attributes(torch.nn.Module, torch.nn.Embedding, torch.nn.Linear),
        "gradients": torch.is_grad_enabled(),
    }
