"""How ghosts lie on devices in ``jax.shard_map`` and ``jax.pmap``, where a layer sees one shard."""

import math
from typing import Any, NamedTuple

from jax import lax


class Layout(NamedTuple):
    """What one device does about ghosts that are counted over all devices."""

    ghost_size: int | None  # examples per ghost, of those on this device
    join: Any = None  # axis names along which the parts of a ghost are joined
    groups: Any = None  # the devices that are joined, if not all along ``join``
    share: Any = None  # axis names along which running statistics go through all ghosts
    copies: int = 1  # neighbours along ``share`` that hold the same ghosts
    devices: int = 1  # devices along ``share``


def layout(batch: int, ghost_size: int | None, axis_name: Any, axis_index_groups: Any) -> Layout:
    """Place ghosts of ``ghost_size`` examples on devices that hold ``batch`` examples each.

    Raises:
        ValueError: a ghost would end in the middle of a device's examples.
    """
    if axis_name is None or ghost_size is None:
        return Layout(ghost_size, axis_name, axis_index_groups)
    names = axis_name if isinstance(axis_name, tuple | list) else (axis_name,)
    lengths = [lax.axis_size(name) for name in names]
    devices = math.prod(lengths)
    spanned = max(1, ghost_size // batch)
    groups = [list(range(i, i + spanned)) for i in range(0, devices, spanned)]
    if spanned * batch % ghost_size or (spanned > 1 and ghost_size % batch) or devices % spanned:
        # Not 1: a ghost of one example may have no variance.
        fitting = {n for n in range(min(2, batch), batch + 1) if batch % n == 0}
        fitting |= {batch * n for n in range(1, devices + 1) if devices % n == 0}
        nearest = sorted(sorted(fitting, key=lambda n: abs(math.log(n / ghost_size)))[:8])
        raise ValueError(
            f"ghost_size={ghost_size} straddles the devices along axis {axis_name!r}: {devices} "
            f"devices hold {batch} examples each. Choose ghost_size from {tuple(nearest)}, so "
            f"that it divides {batch} or is {batch} times a divisor of {devices}, or use "
            "jax.jit with a sharded batch, where any ghost size works."
        )
    if axis_index_groups is not None and [list(g) for g in axis_index_groups] != groups:
        raise ValueError(
            f"axis_index_groups={axis_index_groups} does not go with ghost_size={ghost_size}: at "
            f"{batch} examples per device a ghost lies on {spanned} device(s), so the groups "
            f"are {groups}. Leave axis_index_groups out, or use ghost_size=None."
        )
    if spanned == 1:
        return Layout(ghost_size, share=axis_name, devices=devices)
    for i in range(len(names)):
        if math.prod(lengths[i:]) == spanned:
            rest = devices // spanned
            return Layout(None, names[i:], share=names[:i] or None, devices=rest)
    if len(names) > 1:
        raise ValueError(
            f"a ghost of {ghost_size} examples lies on {spanned} devices, but the inner axes of "
            f"{axis_name} have {lengths}. Split the mesh so that the last axes have {spanned} "
            "devices together."
        )
    return Layout(None, axis_name, groups, axis_name, spanned, devices)
