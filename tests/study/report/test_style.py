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


def test_drawings_that_take_each_others_place_have_one_frame() -> None:
    def narrow(axis: Any) -> None:
        axis.plot([0, 1], [0, 1])

    def wide(axis: Any) -> None:  # its labels alone would move the frame
        axis.plot([0, 1], [0, 1e5])

    def frame(drawn: str) -> str:
        return drawn[drawn.index('id="axes_1"') :].split("</g>")[0]

    together = _style.to_svgs([narrow, wide])
    assert frame(together[0]) == frame(together[1]) == frame(_style.to_svg(narrow))
    assert frame(together[0]) != frame(_style.to_svg(wide))


def test_powers_of_ten_stand_alone_where_there_are_enough() -> None:
    def marks(top: float) -> int:
        return _style.to_svg(lambda axis: axis.semilogx([1, top], [0, 1])).count('id="xtick_')

    assert marks(1e4) < marks(1e2)
