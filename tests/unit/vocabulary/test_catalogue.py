"""Promises of the catalogue: every page and figure of a report is found under its own title."""

import pytest

from ablation.vocabulary.catalogue import BRIDGE, FIGURES, FIRST


@pytest.mark.parametrize("catalogue", [FIRST, BRIDGE], ids=["first", "bridge"])
def test_pages_and_figures_have_titles_of_their_own_in_the_order_of_the_menus(catalogue):
    pages = [catalogue.page_title(name) for name in catalogue.pages]
    figures = [catalogue.figure_title(name) for name in catalogue.figures]
    assert len(set(pages + figures)) == len(pages) + len(figures)
    assert [title.split()[0] for title in figures] == [
        f"{FIGURES[0]}.{number}" for number in range(1, len(figures) + 1)
    ]
    assert pages == sorted(pages) and not [p for p in pages if p.startswith(FIGURES[0])]
