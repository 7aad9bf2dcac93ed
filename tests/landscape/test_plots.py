import jax
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape import Path, Plane
from tests.landscape.test_lanczos import diagonal


@pytest.fixture
def plt():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield pyplot
    pyplot.close("all")


def test_a_path_puts_loss_left_accuracy_right_and_test_dashed(plt):
    t = np.linspace(-1, 2, 5)
    names = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")
    path = Path(t, {name: t**2 + i for i, name in enumerate(names)}, "mode in words")
    figure, ax = plt.subplots()
    assert landscape.plot_path(path, ax) is ax
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["train/loss", "test/loss"]
    assert [line.get_linestyle() for line in right.lines] == ["-", "--"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy")
    assert ax.get_title() == "mode in words"
    figure.canvas.draw()


def test_a_path_is_drawn_from_left_to_right(plt):
    path = Path(np.array([2.0, 0.0, 1.0]), {"loss": np.array([5.0, 3.0, 4.0])}, "mode in words")
    (line,) = landscape.plot_path(path).lines
    assert line.get_xydata().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_several_results_share_an_axis_in_colors_of_their_own(plt):
    t = np.linspace(0, 1, 5)
    values = {"train/loss": t, "test/loss": 1 + t, "test/accuracy": 1 - t}
    path = Path(t, values, "mode in words")
    figure, ax = plt.subplots()
    for name, color in (("SB", "tab:green"), ("LB", "tab:red")):
        landscape.plot_path(
            path, ax, names=["train/loss", "test/loss"], color=color, label=name, linestyle=":"
        )
    assert figure.axes == [ax], "one metric needs no other axis"
    labels = ["SB train/loss", "SB test/loss", "LB train/loss", "LB test/loss"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels
    assert [line.get_color() for line in ax.lines] == ["tab:green"] * 2 + ["tab:red"] * 2
    assert {line.get_linestyle() for line in ax.lines} == {":"}
    _, (left, right) = plt.subplots(1, 2)
    landscape.plot_path(path, left, right=right)
    assert len(left.lines) == 2 and len(right.lines) == 1
    with pytest.raises(ValueError, match="no figure 'error'"):
        landscape.plot_path(path, left, names=["error"])
    density = landscape.spectral_density(diagonal(np.arange(9)), jax.random.key(0), num_steps=5)
    _, ax = plt.subplots()
    for name, color in (("SB", "tab:green"), ("LB", "tab:red")):
        landscape.plot_density(density, ax, color=color, label=name, linestyle="--")
    assert [line.get_label() for line in ax.lines] == ["SB", "LB"]
    assert [line.get_linestyle() for line in ax.lines] == ["--", "--"]
    band = ax.collections[0].get_facecolor()[0, :3]
    np.testing.assert_allclose(band, plt.matplotlib.colors.to_rgb("tab:green"))
    ax.figure.canvas.draw()


def test_planes_as_contours_and_as_a_surface(plt):
    x, y = np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)
    height = 0.01 + x**2 + y[:, None] ** 2
    height[0, 0] = np.nan
    plane = Plane(x, y, {"loss": height, "flat": np.ones((5, 7))}, "mode in words")
    ax = landscape.plot_contour(plane, points=[[0, 0], [1, 1]])
    assert ax.get_title() == "loss; mode in words"
    landscape.plot_contour(plane, name="flat")
    surface = landscape.plot_surface(plane)
    assert surface.get_zlabel() == "loss"
    surface.figure.canvas.draw()
    with pytest.raises(ValueError, match="there are loss, flat"):
        landscape.plot_contour(plane, name="error")
    with pytest.raises(ValueError, match="three dimensions"):
        landscape.plot_surface(plane, plt.subplots()[1])


def test_density_and_trajectory(plt):
    density = landscape.spectral_density(
        diagonal(np.arange(9)), jax.random.key(0), num_probes=3, num_steps=5
    )
    ax = landscape.plot_density(density)
    assert ax.get_yscale() == "log"
    ax.figure.canvas.draw()
    run = [np.array([t, t**2, 1], np.float32) for t in np.linspace(0, 1, 5)]
    landscape.plot_trajectory(landscape.trajectory_pca(run)).figure.canvas.draw()
    with pytest.raises(ValueError, match="two directions"):
        landscape.plot_trajectory(landscape.trajectory_pca(run, num_components=1))


def test_a_plane_is_drawn_the_same_in_any_order(plt):
    x, y = np.linspace(-2, 2, 5), np.linspace(0, 3, 4)
    values = x[None] ** 2 + 2 * y[:, None]
    order, other = np.array([2, 3, 1, 4, 0]), np.array([1, 0, 3, 2])
    planes = [
        Plane(x, y, {"loss": values}, "mode"),
        Plane(x[order], y[other], {"loss": values[np.ix_(other, order)]}, "mode"),
    ]
    drawn = []
    for plane in planes:
        axis = landscape.plot_contour(plane, plt.figure().add_subplot())
        drawn.append([path.vertices for path in axis.collections[0].get_paths()])
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_higher_density_beside_a_lower_one_is_seen_whole(plt):
    def density(width):
        op = diagonal(np.linspace(0, width, 40))
        return landscape.spectral_density(op, jax.random.key(0), num_probes=2, num_steps=10)

    ax = plt.figure().add_subplot()
    for width in (100.0, 1.0):  # the second is a hundred times as high
        landscape.plot_density(density(width), ax)
    ax.figure.canvas.draw()
    bottom, top = ax.get_ylim()
    assert all(line.get_ydata().max() < top for line in ax.lines)
    assert bottom == pytest.approx(min(line.get_ydata().min() for line in ax.lines))


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("draw", [landscape.plot_contour, landscape.plot_surface])
def test_a_plane_one_point_wide_is_refused_with_what_would_do(plt, draw, shape):
    rows, columns = shape
    plane = Plane(np.arange(columns), np.arange(rows), {"loss": np.ones(shape)}, "mode")
    with pytest.raises(ValueError, match=f"{columns} x {rows} points.*measure a `line`"):
        draw(plane)
    assert not plt.get_fignums()
