"""Pictures are looked at by people; what can be checked is checked on the drawn figure."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from crossdim.errors import RecipeError
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.metrics.classification import evaluate_classification
from crossdim.outputs.pictures import (
    Panel,
    Reconstruction,
    confusion,
    curves,
    figure_bytes,
    preview,
    reconstruction_2d,
    reconstruction_3d,
    reliability,
    roc,
    save_figure,
    training_curves,
)
from crossdim.outputs.pictures.charts import panels_of
from crossdim.outputs.pictures.house import MAX_PIXELS, display_range, thinned
from crossdim.outputs.pictures.planes import mid_planes
from crossdim.samples import Image, Origin, Volume
from tests.metrics.toys import exclusive, several

HOSTILE = ("$\\frac{", "_hidden", "<b>&", "a very long name that goes on and on and on", "名前")


@pytest.fixture(autouse=True)
def no_missing_glyph_noise():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def texts(figure: Figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def head_first_volume(channels: int = 1) -> Volume:
    """Return a volume in RAS order with a bright left, a brighter front and the brightest top."""
    voxels = np.zeros((channels, 6, 8, 10), dtype=np.float32)
    voxels[:, 0] += 1
    voxels[:, :, -1] += 2
    voxels[:, :, :, -1] += 4
    return Volume(voxels, np.diag([2.0, 1.0, 3.0, 1.0]), "arbitrary", Origin("head.nii.gz"))


def test_planes_show_the_patient_upright_with_the_right_side_on_the_left():
    volume = head_first_volume()
    axial, coronal, sagittal = mid_planes(volume.voxels, volume.affine)
    assert axial.values.shape == (1, 8, 6)
    assert axial.letters == ("R", "L", "A", "P")
    assert axial.values[0, 3, -1] == 1, "left of the patient is on the right of the picture"
    assert axial.values[0, 0, 3] == 2, "the front is on top"
    assert coronal.values[0, 0, 3] == 4, "the head is on top"
    assert sagittal.values[0, 5, 0] == 2, "the face looks to the left"
    assert (axial.pixel_mm, coronal.pixel_mm, sagittal.pixel_mm) == ((1, 2), (3, 2), (3, 1))


def test_a_volume_is_previewed_in_true_proportions_with_letters_and_a_caption():
    figure = preview(head_first_volume())
    figure_bytes(figure)
    axes = figure.axes
    assert [each.get_title() for each in axes] == ["axial", "coronal", "sagittal"]
    for each, (height, width) in zip(axes, [(8, 12), (30, 12), (30, 8)], strict=True):
        box = each.get_window_extent()
        assert box.height / box.width == pytest.approx(height / width, rel=0.02)
    words = texts(figure)
    for letter in "RLAPSI":
        assert f"\n{letter}\n" in words
    assert "6 × 8 × 10 voxels (depth × height × width); 2 × 1 × 3 mm, RAS" in words
    assert "intensities 0 to 7 (arbitrary), shown 0 to" in words


def test_a_volume_without_a_place_in_the_patient_has_no_letters():
    figure = preview(Volume(np.random.default_rng(0).random((1, 4, 5, 6)), ASSUMED_AFFINE, "unit", Origin("a.npy")))
    words = texts(figure)
    assert "spacing and orientation unknown" in words
    assert "middle of depth" in words
    assert not {"R", "L", "A", "P", "S", "I", "axial"} & set(words.split("\n"))


def test_every_channel_has_a_row_up_to_four():
    volume = head_first_volume(channels=6)
    figure = preview(Volume(volume.voxels, volume.affine, "HU", volume.origin, ("a", "b", "c", "$d", "e", "f")))
    assert len(figure.axes) == 12
    assert "4 of 6 channels shown" in texts(figure)
    assert figure.axes[9].get_ylabel() == "$d"
    figure_bytes(figure)


@pytest.mark.parametrize(
    ("pixels", "unit", "expected"),
    [
        (np.full((3, 20, 30), 128, np.uint8), "uint8", "intensities 128 to 128 (uint8), shown 0 to 255"),
        (np.full((4, 20, 30), 9, np.uint16), "uint16", "shown 0 to 65535"),
        (np.arange(600.0).reshape(1, 20, 30), "arbitrary", "intensities 0 to 599 (arbitrary), shown 2.995 to 596"),
        (np.full((1, 20, 30), np.nan), "arbitrary", "no finite intensity"),
        (np.zeros((1, 1, 900), np.uint8), "uint8", "1 × 900 pixels, 1 channel"),
    ],
)
def test_an_image_says_its_size_and_what_is_shown_as_black_and_white(pixels, unit, expected):
    figure = preview(Image(pixels, unit, Origin("eye.png", "2"), (0.5, 0.25)))
    figure_bytes(figure)
    assert expected in texts(figure)
    assert "eye.png #2" in texts(figure)


def test_an_image_with_oblong_pixels_keeps_its_proportions():
    figure = preview(Image(np.zeros((1, 30, 40), np.uint8), "uint8", Origin("a.png"), (2.0, 1.0)))
    figure_bytes(figure)
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(60 / 40, rel=0.02)


def test_large_planes_are_thinned_and_display_ranges_ignore_outliers_and_nan():
    assert thinned(np.zeros((5 * MAX_PIXELS, 10))).shape == (MAX_PIXELS, 10)
    values = np.concatenate([np.linspace(0, 1, 10000), [1e9, np.nan, np.inf]])
    low, high = display_range(values)
    assert 0 <= low < 0.02
    assert 0.98 < high <= 1
    assert display_range(np.full(5, 3.0)) == (2.5, 3.5)
    sparse = np.zeros(10000)
    sparse[0] = 7
    assert display_range(sparse) == (0, 7)


def reconstructed(size: tuple[int, ...], channels: int, gradients: bool = True, scale: float = 1.0) -> Reconstruction:
    generator = np.random.default_rng(0)
    values = generator.random((channels, *size)) * scale
    hidden = np.zeros((1, *size), dtype=bool)
    hidden[:, : size[0] // 2] = True
    maps = (generator.random((1, *size)), generator.random((1, *size))) if gradients else None
    return Reconstruction("case $1", values, hidden, np.zeros_like(values), maps)


def test_a_reconstructed_image_is_shown_where_it_was_hidden_and_the_input_elsewhere():
    sample = reconstructed((8, 8), 3)
    figure = reconstruction_2d([sample, sample])
    assert [axes.get_title() for axes in figure.axes[:5]] == [
        "input",
        "masked",
        "reconstruction",
        "gradient",
        "predicted gradient",
    ]
    picture, masked, shown, gradient, predicted = (axes.images[0].get_array() for axes in figure.axes[:5])
    np.testing.assert_allclose(picture, np.moveaxis(sample.values, 0, -1))
    assert len(np.unique(masked[:4].reshape(-1, 3), axis=0)) == 1
    np.testing.assert_allclose(masked[4:], picture[4:])
    assert (shown[:4] == 0).all()
    np.testing.assert_allclose(shown[4:], picture[4:])
    np.testing.assert_allclose(gradient[4:], predicted[4:])
    assert not np.allclose(gradient[:4], predicted[:4])
    assert "50% hidden" in texts(figure)
    figure_bytes(figure)


def test_without_a_gradient_decoder_there_are_three_columns():
    assert len(reconstruction_2d([reconstructed((8, 8), 1, gradients=False, scale=5)]).axes) == 3


def test_a_reconstructed_volume_shows_three_planes_and_letters_where_its_place_is_known():
    unknown = reconstructed((4, 6, 8), 2)
    known = Reconstruction(**{**vars(unknown), "affine": np.diag([1.0, 2.0, 1.0, 1.0])})
    figure = reconstruction_3d([known, unknown])
    assert len(figure.axes) == 30
    assert [axes.get_ylabel() for axes in figure.axes[:15:5]] == ["axial", "coronal", "sagittal"]
    assert len(figure.axes[0].texts) == 4
    assert len(figure.axes[15].texts) == 0
    figure_bytes(figure)


def report(classes: int, problem: str = "ordinal", names: tuple[str, ...] | None = None):
    toy = several(60, classes, 0) if problem == "multilabel" else exclusive(60, classes, 0)
    return evaluate_classification(*toy, None, problem, names or tuple(f"class {i}" for i in range(classes)), 20)


def test_the_confusion_matrix_has_counts_shares_and_the_number_of_cases():
    figure = confusion([[3, 1], [0, 0]], ("no", "yes"))
    words = texts(figure).split("\n")
    assert {"3", "75%", "1", "25%", "no  (4)", "yes  (0)"} <= set(words)


@pytest.mark.parametrize("classes", [2, 5, 14, 30])
def test_charts_can_be_drawn_for_any_number_of_classes(classes):
    evaluation = report(classes, "multiclass")
    for figure in (confusion(evaluation.confusion, evaluation.classes), roc(evaluation)):
        assert figure_bytes(figure).startswith(b"\x89PNG")
    if classes > 8:
        assert f"{classes - 8} more classes" in texts(roc(evaluation))


def test_names_are_shown_as_they_are_and_never_read_as_formulas():
    evaluation = report(5, names=HOSTILE)
    matrix, curve = confusion(evaluation.confusion, evaluation.classes), roc(evaluation)
    for figure in (matrix, curve):
        figure_bytes(figure)
        assert "$\\frac{" in texts(figure)
        assert "a very long name that goes …" in texts(figure)
    assert "_hidden: 0." in texts(curve)
    figure_bytes(preview(Image(np.zeros((1, 4, 4), np.uint8), "uint8", Origin("$\\frac{.png"))))


def test_a_roc_chart_without_curves_says_so():
    one_class = evaluate_classification(np.eye(2)[[0, 0, 0]], np.zeros(3, int), None, "multiclass", ("a", "b"), 5)
    assert "no class has positive and negative cases" in texts(roc(one_class))


def test_the_reliability_diagram_states_its_error_and_bins():
    words = texts(reliability(report(3).calibration))
    assert "expected calibration error 0." in words
    assert "probability of the predicted class, 15 bins of equal width" in words


LOG = [
    {"step": 10, "epoch": 0.1, "loss": 2.0, "loss/image/intensity": 1.5, "learning_rate": 0.1, "grad_norm": 3.0},
    {"step": 20, "features/image/knn_accuracy": 0.5, "features/image/chance": 0.2, "features/volume/knn_accuracy": 0.4},
    {"step": 20, "loss": float("nan"), "samples_per_second": 3.0, "note": "text"},
    {
        "step": 30,
        "loss": 1.0,
        "loss/image/intensity": 0.5,
        "learning_rate": 0.05,
        "eval_loss": 1.2,
        "eval_auc": 0.8,
        "eval_balanced_accuracy": 0.7,
        "eval_runtime": 5.0,
    },
]


def test_a_training_log_becomes_losses_and_a_panel_for_each_kind_of_number():
    panels = {panel.title: panel for panel in panels_of(LOG)}
    assert list(panels) == ["loss", "learning rate", "gradient norm", "knn accuracy", "validation"]
    assert panels["loss"].lines == {"all": "loss", "image intensity": "loss/image/intensity", "eval loss": "eval_loss"}
    assert panels["validation"].lines == {"auc": "eval_auc", "balanced accuracy": "eval_balanced_accuracy"}
    assert panels["knn accuracy"].chance == 0.2
    assert list(panels["knn accuracy"].lines) == ["image", "volume"]
    figure = training_curves(LOG)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[10, 2], [30, 1]], "what is not finite is left out"
    figure_bytes(figure)


def test_lines_that_are_not_in_the_log_are_left_out():
    figure = curves(LOG, [Panel("loss", {"train": "loss", "test": "nowhere"}), Panel("empty", {"x": "nowhere"})])
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize("rows", [[], [{"step": 1, "note": "text"}]])
def test_a_log_without_numbers_is_refused(rows):
    with pytest.raises(RecipeError, match="holds no numbers to draw"):
        training_curves(rows)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.JPEG", b"\xff\xd8")])
def test_the_suffix_says_the_format(tmp_path, name, start):
    save_figure(reliability(report(3).calibration), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_unknown_picture_format_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"'\.bmp' is no format for pictures"):
        save_figure(reliability(report(3).calibration), tmp_path / "a.bmp")


def test_drawing_touches_no_global_state_and_no_torch():
    program = (
        "import sys\nimport numpy as np\n"
        "from crossdim.outputs.pictures import preview, figure_bytes\n"
        "from crossdim.outputs import report\n"
        "from crossdim.samples import Image, Origin\n"
        "figure_bytes(preview(Image(np.zeros((1, 4, 4), np.uint8), 'uint8', Origin('a.png'))))\n"
        "print([name for name in ('matplotlib.pyplot', 'torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_files_can_be_previewed(crossdim_data):
    from crossdim.readers import read

    for path in ("idrid/grading/train", "hippocampus/images"):
        file = sorted((crossdim_data / path).rglob("*.[jn][pi]*"))[0]
        assert len(figure_bytes(preview(read(str(file))), dpi=60)) > 10_000
