"""How figures look: powers of ten as letters."""

from typing import Any

from gapjax.study._report._figures import _style


def test_powers_of_ten_are_letters() -> None:
    def draw(axis: Any) -> None:
        axis.loglog([1e-4, 2e3], [2e-3, 4e-3])

    drawn = _style.to_svg(draw)
    assert ">10⁻³<" in drawn and ">2×10⁻³<" in drawn
    assert "mathdefault" not in drawn


def test_axes_of_other_scales_and_labels_stay() -> None:
    def draw(axis: Any) -> None:
        axis.plot([1, 16], [0, 1])
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 16], ["one", "16"])

    drawn = _style.to_svg(draw)
    assert ">one<" in drawn and ">16<" in drawn
