import pytest

from crossdim import readers
from crossdim.datasets.table import Columns, from_table
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import nifti, png


@pytest.fixture
def folder(tmp_path):
    for name in "abcd":
        png(tmp_path / "images" / f"{name}.png", seed=ord(name))
    return tmp_path


def write(folder, text, name="table.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.strip().replace("\n", "\r\n").encode(encoding))
    return path


def labels(manifest):
    return [record.labels for record in manifest.records]


def test_a_table_with_every_kind_of_column(folder):
    table = write(
        folder,
        """
eye,file,person,part,grade,signs,camera,unused
1,images/a.png,p1,train,mild,drusen|oedema,Kowa,x
2,images/b.png,p1,Training,none,|,Topcon,x
3,images/c.png,p2,validation,,oedema,Kowa,x
4,images/d.png,p3,TEST,NA,n/a,Topcon,x
""",
    )
    columns = Columns(path="file", labels=("grade", "signs", "camera"), id="eye", patient="person", split="part")
    manifest = from_table(table, columns, ordinal={"grade": ["none", "mild", "severe"]}, multilabel=["signs"])
    assert {name: (task.kind, task.classes) for name, task in manifest.header.tasks.items()} == {
        "grade": ("ordinal", ("none", "mild", "severe")),
        "signs": ("multilabel", ("drusen", "oedema")),
        "camera": ("multiclass", ("Kowa", "Topcon")),
    }
    assert labels(manifest) == [
        {"grade": 1, "signs": (0, 1), "camera": 0},
        {"grade": 0, "signs": (), "camera": 1},
        {"signs": (1,), "camera": 0},
        {"camera": 1},
    ]
    assert [(r.id, r.patient_id, r.split) for r in manifest.records] == [
        ("1", "p1", "train"),
        ("2", "p1", "train"),
        ("3", "p2", "val"),
        ("4", "p3", "test"),
    ]
    assert (manifest.header.name, manifest.header.root) == ("table", str(folder))
    assert readers.read_channels(manifest.resolve(manifest.records[0])).kind == manifest.records[0].kind == "image"


def test_a_table_of_paths_alone_is_unlabelled_and_every_file_a_patient(folder):
    manifest = from_table(write(folder, "path\nimages/a.png\n\nimages/b.png"), Columns())
    assert [(r.id, r.patient_id, r.split, r.labels) for r in manifest.records] == [
        ("images/a.png", "images/a.png", None, {}),
        ("images/b.png", "images/b.png", None, {}),
    ]


def test_semicolons_tabs_and_the_byte_order_mark_of_spreadsheets_are_understood(folder):
    columns = Columns(labels=("note",))
    expected = [{"note": 0}, {"note": 1}]
    for name, text in (("s.csv", 'path;note\nimages/a.png;"a, b"\nimages/b.png;c'),
                       ("t.tsv", "path\tnote\nimages/a.png\ta, b\nimages/b.png\tc")):  # fmt: skip
        table = write(folder, text, name, encoding="utf-8-sig")
        assert labels(from_table(table, columns)) == expected


def test_paths_are_relative_to_the_folder_given_and_get_the_suffix(folder):
    table = write(folder / "images", "image\na\nb", "t.csv")
    table.rename(folder / "t.csv")
    manifest = from_table(folder / "t.csv", Columns(path="image", suffix=".png"), folder=folder / "images")
    assert [record.paths for record in manifest.records] == [("a.png",), ("b.png",)]


def test_absolute_paths_outside_the_folder_stay_absolute(folder, tmp_path_factory):
    elsewhere = png(tmp_path_factory.mktemp("elsewhere") / "e.png")
    manifest = from_table(write(folder, f"path\n{elsewhere}"), Columns())
    assert manifest.records[0].paths == (str(elsewhere),)
    assert manifest.resolve(manifest.records[0]) == (str(elsewhere),)


def test_several_columns_of_paths_are_channels(folder):
    for name in ("t1", "t2"):
        nifti(folder / f"{name}.nii.gz")
    manifest = from_table(write(folder, "T1,T2\nt1.nii.gz,t2.nii.gz"), Columns(path=("T1", "T2")))
    (record,) = manifest.records
    assert (record.kind, record.paths) == ("volume", ("t1.nii.gz", "t2.nii.gz"))
    assert readers.read_channels(manifest.resolve(record)).voxels.shape[0] == 2


def test_a_selector_in_the_table_chooses_inside_a_file(folder):
    nifti(folder / "four.nii.gz", shape=(4, 4, 4, 3))
    manifest = from_table(write(folder, "path\nfour.nii.gz#0\nfour.nii.gz#2\nfour.nii.gz"), Columns())
    assert [record.id for record in manifest.records] == ["four.nii.gz#0", "four.nii.gz#2"]
    (skipped,) = manifest.skipped
    assert skipped.path.endswith("table.csv, row 4")
    assert "#0" in skipped.reason


def test_unreadable_files_and_mixed_channels_are_listed_by_row(folder):
    nifti(folder / "v.nii.gz")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    table = write(folder, "a,b\nimages/a.png,images/b.png\nbad.png,images/c.png\nimages/d.png,v.nii.gz")
    manifest = from_table(table, Columns(path=("a", "b")))
    assert [record.id for record in manifest.records] == ["images/a.png"]
    assert [skipped.path.rpartition(", ")[2] for skipped in manifest.skipped] == ["row 3", "row 4"]
    assert "bad.png" in manifest.skipped[0].reason
    assert manifest.skipped[1].reason == "its channels are images and volumes"


def test_missing_files_are_named_with_their_rows_or_skipped_when_told_so(folder):
    table = write(folder, "path\nimages/a.png\nimages/x.png\n\nimages/y.png")
    with pytest.raises(ReadError, match=r"2 files are not in .* \(row 3: images/x.png, row 5: images/y.png\)"):
        from_table(table, Columns())
    manifest = from_table(table, Columns(), missing="skip")
    assert [record.id for record in manifest.records] == ["images/a.png"]
    assert [skipped.path.rpartition(", ")[2] for skipped in manifest.skipped] == ["row 3", "row 5"]
    with pytest.raises(ReadError, match=r"1 files are not in"):
        from_table(write(folder, "path\nimages/x.png"), Columns(), missing="skip")
    many = "path\n" + "\n".join(f"{number}.png" for number in range(9))
    with pytest.raises(ReadError, match=r"9 files are not in .*row 6: 4.png, \.\.\.\)"):
        from_table(write(folder, many), Columns())


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("file,grade\nx,1", Columns(), r"column 'path': is not in the table. Did you mean|Use one of: file, grade"),
        ("path,grade\nx,1", Columns(labels=("grades",)), r"column 'grades': is not in the table. Did you mean 'grade'"),
        ("path", Columns(), r"has no row below the names of its columns"),
        ("path,id\nimages/a.png,", Columns(id="id"), r"row 2: column 'id' is empty. Fill it in, or drop the row"),
        ("path,id\n,7", Columns(id="id"), r"row 2: column 'path' is empty"),
        ("path\nimages/a.png\nimages/a.png", Columns(), r"row 3: 'images/a.png' is already in row 2"),
        (
            "path,part\nimages/a.png,trian",
            Columns(split="part"),
            r"row 2, column 'part': 'trian' is no part .* 'train'",
        ),
        ("path,g\nimages/a.png,x", Columns(labels=("g",)), r"column 'g': has 1 classes \(x\), too few"),
        ("path,g\nimages/a.png,nan", Columns(labels=("g",)), r"column 'g': has 0 classes"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_row_and_column(folder, text, columns, message):
    with pytest.raises(RecipeError, match=message):
        from_table(write(folder, text), columns)


def test_ordinal_and_multilabel_columns_that_do_not_fit_are_refused(folder):
    table = write(folder, "path,grade\nimages/a.png,mild\nimages/b.png,sever")
    columns = Columns(labels=("grade",))
    with pytest.raises(
        RecipeError, match=r"row 3, column 'grade': 'sever' is none of the classes. Did you mean 'severe'"
    ):
        from_table(table, columns, ordinal={"grade": ["mild", "severe"]})
    with pytest.raises(RecipeError, match=r"column 'grade': has the class 'mild' twice"):
        from_table(table, columns, ordinal={"grade": ["mild", "sever", "mild"]})
    with pytest.raises(
        RecipeError, match=r"column 'grades': is described, and is not one of the labels. Did you mean 'grade'"
    ):
        from_table(table, columns, ordinal={"grades": ["mild", "severe"]})
    with pytest.raises(RecipeError, match=r"column 'signs': is described, .* Add it to the labels"):
        from_table(table, Columns(), multilabel=["signs"])


def test_files_that_are_no_tables_are_refused(folder):
    with pytest.raises(ReadError, match=r"absent.csv: is not a file"):
        from_table(folder / "absent.csv", Columns())
    with pytest.raises(ReadError, match=r"is not a table in UTF-8"):
        from_table(folder / "images" / "a.png", Columns())
    (folder / "empty.csv").write_text("")
    with pytest.raises(RecipeError, match=r"column 'path': is not in the table"):
        from_table(folder / "empty.csv", Columns())


def test_the_table_of_idrid_with_its_empty_columns_can_be_used_directly(crossdim_data):
    root = crossdim_data / "idrid"
    grade, risk = "Retinopathy grade", "Risk of macular edema"
    manifest = from_table(
        root / "labels" / "a._IDRiD_Disease_Grading_Training_Labels.csv",
        Columns(path="Image name", labels=(grade, risk), suffix=".jpg"),
        folder=root / "grading" / "train" / "images",
        ordinal={grade: ["0", "1", "2", "3", "4"], risk: ["0", "1", "2"]},
    )
    assert len(manifest) == 413
    assert manifest.records[0].labels == {grade: 3, risk: 2}
