"""Meshes over some of the virtual devices."""

import jax


def data_mesh(devices, kind=jax.sharding.AxisType.Auto):
    """The first so many devices in one axis, "data"."""
    return jax.make_mesh((devices,), ("data",), axis_types=(kind,), devices=jax.devices()[:devices])
