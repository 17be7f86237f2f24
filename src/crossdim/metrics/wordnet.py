"""Find WordNet for METEOR: installed for NLTK, or as plain database files that NLTK cannot read as they are.

NLTK wants a folder ``corpora/wordnet`` that also holds ``lexnames`` and ``index.sense``; Debian's ``wordnet-base`` has
neither. ``lexnames`` is the list of WordNet's 45 lexicographer files (manual page lexnames(5WN)); ``index.sense`` may
be empty, since METEOR asks for synonyms only. :func:`open_wordnet` makes such a folder once, in a cache.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdim.errors import ReadError

NEEDED = tuple(
    name for part in ("adj", "adv", "noun", "verb") for name in (f"data.{part}", f"index.{part}", f"{part}.exc")
)
STANDARD_PLACES = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "/usr/local/share/wordnet/dict")

LEXICOGRAPHER_FILES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession"),
    *("noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time"),
    *("verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition", "verb.consumption"),
    *("verb.contact", "verb.creation", "verb.emotion", "verb.motion", "verb.perception", "verb.possession"),
    *("verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
CATEGORY_NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def standard_places() -> tuple[Path, ...]:
    """Return where WordNet's database files usually are: by its own environment variables, then by convention."""
    named = [os.environ[name] for name in ("WNSEARCHDIR",) if name in os.environ]
    named += [f"{os.environ[name]}/dict" for name in ("WNHOME",) if name in os.environ]
    return tuple(Path(place) for place in (*named, *STANDARD_PLACES))


def default_cache() -> Path:
    """Return the folder under which :func:`open_wordnet` keeps NLTK's layout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossdim" / "nltk_data"


def open_wordnet(places: Sequence[Path] | None = None, cache: Path | None = None) -> Any:
    """Return WordNet as NLTK reads it (``nltk.corpus.reader.WordNetCorpusReader``).

    An installation for NLTK (``nltk.download("wordnet")``, environment variable ``NLTK_DATA``) comes first.

    Args:
        places: Folders with WordNet's database files to look in otherwise; None for the standard ones.
        cache: Where to keep NLTK's layout of them; None for :func:`default_cache`.

    Raises:
        ReadError: If there is no WordNet, or it cannot be read.
    """
    import nltk
    from nltk.corpus.reader.wordnet import WordNetError

    folders = standard_places() if places is None else places
    try:
        root = _installed() or _laid_out(folders, default_cache() if cache is None else cache)
    except OSError as error:
        raise ReadError(
            "WordNet", f"cannot be prepared for NLTK ({error})", "Make the cache folder writable"
        ) from error
    if root is None:
        raise ReadError(
            "WordNet",
            f"is neither in NLTK's data nor in {', '.join(map(str, folders))}",
            "For METEOR install wordnet-base (Debian, Ubuntu) or run: python -m nltk.downloader wordnet",
        )
    if isinstance(root, Path) and str(root.parent.parent) not in nltk.data.path:
        nltk.data.path.append(str(root.parent.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it regrets that other languages are missing
            return nltk.corpus.reader.WordNetCorpusReader(str(root) if isinstance(root, Path) else root, None)
    except (OSError, ValueError, AssertionError, LookupError, WordNetError) as error:
        remedy = "Remove that folder and install WordNet 3.0 again"
        raise ReadError(root, f"is no WordNet that NLTK can read ({error})", remedy) from error


def lay_out(source: Path, cache: Path) -> Path:
    """Copy WordNet's database files into NLTK's layout, with ``lexnames`` and ``index.sense``, whole or not at all.

    Args:
        source: Folder with ``data.noun`` and the others.
        cache: The result is ``corpora/wordnet`` in it; one that is there is kept.

    Returns:
        That folder.
    """
    place = cache / "corpora" / "wordnet"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".wordnet-") as folder:
        fresh = Path(folder) / "wordnet"
        fresh.mkdir()
        for name in (*NEEDED, "cntlist.rev", "lexnames", "index.sense"):
            if (source / name).is_file():
                shutil.copyfile(source / name, fresh / name)
        for name, content in (("lexnames", lexnames()), ("index.sense", ""), ("cntlist.rev", "")):
            if not (fresh / name).exists():
                (fresh / name).write_text(content, encoding="utf-8")
        if not place.is_dir():
            os.replace(fresh, place)
    return place


def lexnames() -> str:
    """Return the content of WordNet's file ``lexnames``: number, name and syntactic category of each source file."""
    return "".join(
        f"{number:02d}\t{name}\t{CATEGORY_NUMBERS[name.partition('.')[0]]}\n"
        for number, name in enumerate(LEXICOGRAPHER_FILES)
    )


def _installed() -> Any:
    """Return NLTK's own WordNet: a folder or an archive, whichever it finds first; None if there is none."""
    import nltk

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            found = nltk.data.find(name)
        except LookupError:
            continue
        return found if isinstance(found, nltk.data.ZipFilePathPointer) else Path(str(found))
    return None


def _laid_out(folders: Sequence[Path], cache: Path) -> Path | None:
    for folder in folders:
        if all((folder / name).is_file() for name in NEEDED):
            return lay_out(folder, cache)
    return None
