"""Promises of the documentation's drawings: they show what the code does, and are current."""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablation.model.masks import rule
from ablation.provenance.files import canonical_json

ROOT = Path(__file__).resolve().parents[3]


def tool(name):
    """A module of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PICTURES, FLOWCHART = tool("concept_pictures"), tool("site_flowchart")
EXAMPLE = tool("example_data")


def test_the_pictures_are_current():
    drawn = PICTURES.pictures()
    assert {file.name for file in drawn} == {file.name for file in PICTURES.FOLDER.iterdir()}
    for file, content in drawn.items():
        assert file.read_text("utf-8") == content, "run `make pictures`"
        ElementTree.fromstring(content)


@pytest.mark.parametrize("mask", ["causal", "prefill_bidir", "full_bidir"])
@pytest.mark.parametrize("tokens", [PICTURES.ONE, PICTURES.PACKED], ids=["one", "packed"])
def test_the_drawn_masks_are_those_of_the_code(mask, tokens):
    if mask == "full_bidir":  # under it no two choices share a prompt
        tokens = [token for token in tokens if token.branch < 2]
    doc, branch, position = torch.tensor([token[1:] for token in tokens]).T[:, None]
    attends = rule(mask, doc, branch, position)
    n, zero = len(tokens), torch.tensor(0)
    places = torch.arange(n)
    code = attends(zero, zero, places[:, None], places[None, :])
    drawn = [[PICTURES.allowed(mask, tokens, q, k) for k in range(n)] for q in range(n)]
    assert code.tolist() == drawn


def test_only_full_bidir_shows_a_target():
    for mask in ("causal", "prefill_bidir", "full_bidir"):
        drawn = (PICTURES.FOLDER / f"mask_{mask}.svg").read_text("utf-8")
        assert ("!</text>" in drawn) == (mask == "full_bidir")


def test_the_data_of_the_example_are_current():
    for file, lines in EXAMPLE.example_data().items():
        assert file.read_text("utf-8").splitlines() == [canonical_json(line) for line in lines]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda e: e[0] < e[1])))
def test_a_flowchart_has_every_box_once_no_two_over_each_other_and_every_arrow(edges):
    nodes = "\n".join(f'  n{i}["box {i}<br/>below"]' for i in range(8))
    arrows = "\n".join(f"  n{a} --> n{b}" for a, b in edges)
    for kind in ("flowchart LR", "flowchart TB"):
        drawn = FLOWCHART.flowchart(f"{kind}\n{nodes}\n{arrows}\n")
        assert drawn.count("marker-end") == len(set(edges))
        found = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn)
        boxes = [tuple(map(int, box)) for box in found]
        assert len(boxes) == 8 and all(drawn.count(f">box {i}<") == 1 for i in range(8))
        for i, (x, y, width, height) in enumerate(boxes):
            for other_x, other_y, *_ in boxes[:i]:
                assert abs(x - other_x) >= width or abs(y - other_y) >= height


def test_an_arrow_leads_to_a_later_rank():
    drawn = FLOWCHART.flowchart("flowchart TB\n a[one]\n b[two]\n c[three]\n a --> b\n b --> c\n")
    heights = [int(y) for y in re.findall(r'<rect x="\d+" y="(\d+)"', drawn)]
    assert heights == sorted(heights) and len(set(heights)) == 3
    assert "one leads to two; two leads to three" in drawn
