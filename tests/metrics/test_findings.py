import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.metrics.findings import FindingCounts, count_findings, framing_sentences

FINDINGS = ("The liver is enlarged.", "The visible volume of the left kidney is 1.43 mL.", "Segment 10 is bright.")


@pytest.mark.parametrize(
    ("report", "hits", "stated"),
    [
        ("The liver is enlarged. Segment 10 is bright.", 2, 2),
        ("LIVER is enlarged!", 1, 1),
        ("The liver is enlarged. The liver is enlarged.", 1, 1),
        ("The spleen is enlarged.", 0, 1),
        ("liver liver enlarged", 0, 1),
        ("", 0, 0),
        ("The visible volume of the left kidney is 1.5 mL.", 1, 1),
        ("The visible volume of the left kidney is 1500 mm³.", 1, 1),
        ("The visible volume of the left kidney is 1.9 mL.", 0, 1),
        ("The visible volume of the right kidney is 1.43 mL.", 0, 1),
        ("The visible volume of the left kidney is 1.4 mL. The visible volume of the left kidney is 1.5 mL.", 1, 2),
        ("Segment 11 is bright.", 0, 1),
    ],
)
def test_findings_are_sentences_and_measurements_are_right_within_a_share(report, hits, stated):
    assert count_findings(report, FINDINGS, ()) == FindingCounts(hits, stated, 3)


def test_sentences_that_frame_the_findings_are_not_findings():
    answers = [f"CT of the abdomen. {FINDINGS[0]}", f"CT of the abdomen. {FINDINGS[2]}"]
    framing = framing_sentences(answers, [FINDINGS[:1], FINDINGS[2:]])
    assert framing == {"ct of abdomen"}
    assert count_findings("CT of the abdomen. The liver is enlarged.", FINDINGS, framing) == FindingCounts(1, 1, 3)


@given(
    st.lists(st.sampled_from(FINDINGS), unique=True), st.lists(st.sampled_from([*FINDINGS, "No mass."]), unique=True)
)
def test_hits_never_exceed_what_is_stated_or_true(true, said):
    counts = count_findings(" ".join(said), true, ())
    assert counts.hits == len(set(true) & set(said))
    assert (counts.stated, counts.true) == (len(said), len(true))
