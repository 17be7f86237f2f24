import zipfile

import nltk
import pytest

from crossdim.errors import ReadError
from crossdim.metrics.wordnet import STANDARD_PLACES, lay_out, lexnames, open_wordnet, standard_places
from tests.metrics.toys import wordnet_files


@pytest.fixture(autouse=True)
def no_wordnet_of_this_machine(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.delenv("NLTK_DATA", raising=False)


def synonyms(wordnet, word: str) -> set[str]:
    return {lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas()}


def test_plain_database_files_become_a_wordnet_that_nltk_reads(tmp_path):
    wordnet_files(tmp_path / "dict", {"tumor": "neoplasm"})
    wordnet = open_wordnet([tmp_path / "nowhere", tmp_path / "dict"], tmp_path / "cache")
    assert synonyms(wordnet, "tumor") == {"tumor", "neoplasm"}
    assert sorted(path.name for path in (tmp_path / "cache" / "corpora").iterdir()) == ["wordnet"], "no leftovers"


def test_the_layout_is_made_once(tmp_path):
    wordnet_files(tmp_path / "dict", {"tumor": "neoplasm"})
    place = lay_out(tmp_path / "dict", tmp_path / "cache")
    (place / "mark").touch()
    assert lay_out(tmp_path / "dict", tmp_path / "cache") == place
    assert (place / "mark").exists()


def test_a_wordnet_installed_for_nltk_comes_first(tmp_path, monkeypatch):
    wordnet_files(tmp_path / "dict", {"tumor": "neoplasm"})
    wordnet_files(tmp_path / "other", {"tumor": "growth"})
    place = lay_out(tmp_path / "other", tmp_path / "nltk_data")
    assert place == tmp_path / "nltk_data" / "corpora" / "wordnet"
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    wordnet = open_wordnet([tmp_path / "dict"], tmp_path / "cache")
    assert synonyms(wordnet, "tumor") == {"tumor", "growth"}
    assert not (tmp_path / "cache").exists()


def test_a_zipped_wordnet_is_read_where_nltk_left_it(tmp_path, monkeypatch):
    wordnet_files(tmp_path / "dict", {"tumor": "neoplasm"})
    place = lay_out(tmp_path / "dict", tmp_path / "made")
    corpora = tmp_path / "nltk_data" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/", "")
        for path in place.iterdir():
            archive.write(path, f"wordnet/{path.name}")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    assert synonyms(open_wordnet([], tmp_path / "cache"), "tumor") == {"tumor", "neoplasm"}


def test_where_there_is_no_wordnet_the_error_says_how_to_get_it(tmp_path):
    with pytest.raises(ReadError, match=r"neither in NLTK's data nor in .*nowhere.*install wordnet-base"):
        open_wordnet([tmp_path / "nowhere"], tmp_path / "cache")


def test_damaged_database_files_are_refused(tmp_path):
    wordnet_files(tmp_path / "dict", {"tumor": "neoplasm"})
    (tmp_path / "dict" / "index.noun").write_text("tumor n one\n")
    with pytest.raises(ReadError, match="is no WordNet that NLTK can read"):
        open_wordnet([tmp_path / "dict"], tmp_path / "cache")


def test_the_lexicographer_files_are_the_45_of_the_manual():
    lines = lexnames().splitlines()
    assert len(lines) == 45
    assert (lines[0], lines[3], lines[28], lines[44]) == (
        "00\tadj.all\t3",
        "03\tnoun.Tops\t1",
        "28\tnoun.time\t1",
        "44\tadj.ppl\t3",
    )


def test_wordnets_own_variables_come_before_the_usual_places(monkeypatch, tmp_path):
    monkeypatch.setenv("WNHOME", str(tmp_path))
    assert standard_places()[0] == tmp_path / "dict"
    assert len(standard_places()) == 1 + len(STANDARD_PLACES)
