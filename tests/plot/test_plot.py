"""plot_roles: what the picture shows, and the page in a browser."""

import html
import itertools
import json
import pathlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.network.graph import Graph, Kind, Node
from keras_gamma.network.inputs import trace
from keras_gamma.plot import drawing
from keras_gamma.plot.layout import BOX, LANE, lay_out
from tests.models.role_models import CASES

pytest.importorskip("matplotlib")
from matplotlib import image


def norm_act(x, name):
    return layers.ReLU()(layers.BatchNormalization(name=name)(x))


def small_resnet(blocks=2):
    x = keras.Input((8, 8, 3), name="image")
    y = norm_act(layers.Conv2D(4, 3, padding="same", name="stem")(x), "stem_bn")
    for i in range(blocks):
        z = norm_act(layers.Conv2D(4, 3, padding="same", name=f"conv{i}a")(y), f"bn{i}a")
        z = layers.Conv2D(4, 3, padding="same", name=f"conv{i}b")(z)
        z = layers.BatchNormalization(name=f"bn{i}b")(z)
        skip = y if i else layers.BatchNormalization(name="skip_bn")(
            layers.Conv2D(4, 1, name="skip_conv")(y))  # fmt: skip
        y = layers.ReLU()(layers.Add(name=f"join{i}")([skip, z]))
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(2, name="head")(y), name="small")


ROLES = {
    "stem_bn": "interior",  # The first skip has a normalization of its own.
    "skip_bn": "shortcut",
    "bn0a": "interior",
    "bn0b": "residual_last",
    "bn1a": "interior",
    "bn1b": "residual_last",
}


def layout_of(model, inputs=None):
    network = trace(model, inputs)
    weighted = {n for s in network.steps if s.is_weighted for n in s.numbers if n is not None}
    return lay_out(network.graph, weighted), network.graph


# Where things are -----------------------------------------------------------------------------


def test_the_layout_of_a_small_network():
    layout, _ = layout_of(small_resnet())
    lanes = {box.label: box.lane for box in layout.boxes}
    trunk = ["image", "stem", "stem_bn", "skip_conv", "skip_bn", "join0", "join1", "head"]
    branches = ["conv0a", "bn0a", "conv0b", "bn0b", "conv1a", "bn1a", "conv1b", "bn1b"]
    assert lanes == dict.fromkeys(trunk, 0) | dict.fromkeys(branches, 1)
    assert {(e.start.label, e.end.label) for e in layout.edges if e.skip} == {
        ("stem_bn", "skip_conv"),
        ("skip_conv", "skip_bn"),
        ("skip_bn", "join0"),
        ("join0", "join1"),
    }
    assert {box.label for box in layout.boxes if box.residual} == {"join0", "join1"}
    assert len(layout.edges) == 17


@pytest.mark.one_in(20)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_network_is_laid_out(case):
    layout, graph = layout_of(case.build(), case.example())
    nodes = {box.node for box in layout.boxes}
    wanted = {
        i for i, node in enumerate(graph.nodes)
        if graph.live[i] and node.kind in (Kind.NORM, Kind.SUM)
    } | set(graph.outputs)  # fmt: skip
    assert wanted <= nodes
    centres = {(box.x, box.y) for box in layout.boxes}
    assert len(centres) == len(layout.boxes)
    for x, y in centres:
        assert BOX[0] / 2 < x < layout.width - BOX[0] / 2
        assert BOX[1] / 2 < y < layout.height - BOX[1] / 2
    for edge in layout.edges:
        before = (edge.start.column, edge.start.row)
        assert before < (edge.end.column, edge.end.row)
    # What is connected stays connected: from every box that is no input something leads to it.
    reached = {edge.end.node for edge in layout.edges}
    for box in layout.boxes:
        has_sources = bool(graph.nodes[box.node].inputs)
        assert (box.node in reached) == has_sources


def chain(blocks):
    """A residual network as a graph, without Keras."""
    nodes = [Node(Kind.INPUT, (), "x")]
    for i in range(blocks):
        start = len(nodes) - 1
        nodes.append(Node(Kind.NORM, (start,), f"norm{i}"))
        nodes.append(Node(Kind.LINEAR, (start + 1,), f"conv{i}"))
        nodes.append(Node(Kind.SUM, (start, start + 2), f"add{i}"))
    return Graph(nodes, [len(nodes) - 1]), {i for i, n in enumerate(nodes) if "conv" in n.label}


@pytest.mark.parametrize("blocks", [1, 19, 20, 60, 300, 1000])
def test_long_networks_are_folded_between_blocks(blocks):
    graph, weighted = chain(blocks)
    layout = lay_out(graph, weighted)
    assert len(layout.boxes) == 3 * blocks + 1
    columns = max(box.column for box in layout.boxes) + 1
    assert (columns == 1) == (3 * blocks + 1 <= 60)
    if columns > 1:
        assert 0.7 < layout.width / layout.height < 3
    for before, after in itertools.pairwise(layout.boxes):
        if before.column != after.column:  # The stream alone passes: a block has just ended.
            assert before.label.startswith("add")
    crossing = [e for e in layout.edges if e.start.column != e.end.column]
    assert len(crossing) == 2 * (columns - 1)  # The skip and the branch of the next block.


@pytest.mark.slow
def test_boxes_do_not_overlap_their_neighbours():
    layout, _ = layout_of(keras.applications.ResNet152V2(weights=None))
    for a, b in itertools.combinations(layout.boxes, 2):
        assert abs(a.x - b.x) >= BOX[0] or abs(a.y - b.y) >= BOX[1], (a, b)
    assert BOX[0] < LANE


# What is drawn --------------------------------------------------------------------------------


def test_the_svg_shows_every_gamma_in_its_colour(tmp_path):
    path = keras_gamma.plot_roles(small_resnet(), tmp_path / "deep" / "roles.svg")
    svg = path.read_text()
    texts = dict(re.findall(r'<g id="text(\d+)">.*?<text[^>]*>([^<]*)</text>', svg, re.DOTALL))
    fills = dict(re.findall(r'<g id="node(\d+)">.*?fill: (#[0-9a-f]{6})', svg, re.DOTALL))
    by_label = {label: fills[number] for number, label in texts.items()}
    colors = {"shortcut": "#e69f00", "interior": "#009e73",
              "residual_last": "#0072b2"}  # fmt: skip
    assert {name: by_label[name] for name in ROLES} == {n: colors[r] for n, r in ROLES.items()}
    assert by_label["stem"] not in colors.values()
    again = keras_gamma.plot_roles(small_resnet(), tmp_path / "again.svg")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_png_of_a_large_network(tmp_path):
    model = keras.applications.ResNet152V2(weights=None)
    pixels = image.imread(keras_gamma.plot_roles(model, tmp_path / "roles.png"))
    assert 1000 < pixels.shape[0] < 6000 and 1000 < pixels.shape[1] < 8000
    blue, green = np.array([0x00, 0x72, 0xB2]) / 255, np.array([0x00, 0x9E, 0x73]) / 255
    near = [np.abs(pixels[..., :3] - color).max(axis=-1) < 0.01 for color in (blue, green)]
    # 50 last γ and 96 interior ones, in boxes of the same size.
    assert near[1].sum() / near[0].sum() == pytest.approx(96 / 50, rel=0.05)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("short", "short"),
        ("a" * 24, "a" * 24),
        ("conv_" + "x" * 30 + "_bn", "conv_xxxxxx…xxxxxxxxx_bn"),
        ("outer/inner/attention_layer_norm", "…er/attention_layer_norm"),
    ],
)
def test_long_names(label, shown):
    assert drawing.shorten(label, 24) == shown


def test_names_are_taken_literally(tmp_path):
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="$a_b$<script>&")(x)
    model = keras.Model(x, layers.Dense(1)(y), name="<b>$x$")
    page = keras_gamma.plot_roles(model, tmp_path / "a.html").read_text()
    assert "<script>&" not in page and "<b>$x$" not in page
    assert "$a_b$&lt;script&gt;&amp;" in page


@pytest.mark.parametrize("name", ["roles", "roles.jpg", "roles.keras", "roles.html.gz"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="html, pdf, png, svg"):
        keras_gamma.plot_roles(small_resnet(), tmp_path / name)
    assert not list(tmp_path.iterdir())


# The page -------------------------------------------------------------------------------------


def cells(page, column):
    return re.findall(rf'<td role="cell" class="{column}">([^<]*)</td>', page)


def test_decisions_and_strengths_of_both_kinds_of_plans(tmp_path):
    model = small_resnet()
    decoupled = keras_gamma.plan_weight_decay(model, guidelines="residual_last=0.5")
    page = keras_gamma.plot_roles(model, tmp_path / "a.html", plan=decoupled).read_text()
    assert sorted(cells(page, "decision")) == 2 * ["decayed"] + 4 * ["not decayed"]
    assert sorted(cells(page, "strength")) == 2 * ["×0.5"] + 4 * ["–"]
    coupled = keras_gamma.apply_guidelines(model, l2=1e-4)
    page = keras_gamma.plot_roles(model, tmp_path / "b.html", plan=coupled).read_text()
    assert sorted(cells(page, "decision")) == 5 * ["apply"] + ["withhold"]
    assert sorted(cells(page, "strength")) == 5 * ["l2 0.0001"] + ["–"]
    plain = keras_gamma.plot_roles(model, tmp_path / "c.html").read_text()
    assert cells(plain, "kind") == 6 * ["batch"]
    assert cells(plain, "decision") == cells(plain, "strength") == []
    with pytest.raises(TypeError, match="must be a GammaPlan or a DecayPlan"):
        keras_gamma.plot_roles(model, tmp_path / "c.html", plan="paper")


def test_the_legend_stands_once(tmp_path):
    page = make_page(tmp_path).read_text()
    assert page.count('value="residual_last"') == 1
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert "residual_last" not in drawn and "small:" not in drawn


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action") and not (
                value.startswith("#")
            ):
                self.found.append((tag, name, value))


# As long as those of real models, with each of the signs that join words; and a word beyond a line.
LONG = "encoder-tower.stage2_residual_block1_of_the_"
WORD = "w" * 60


def with_long_names(layer):
    name = f"{LONG}{WORD if layer.name == 'bn1b' else layer.name}"
    return type(layer).from_config({**layer.get_config(), "name": name})


def make_page(tmp_path, with_plan=False, long=False):
    model = small_resnet()
    if long:
        model = keras.models.clone_model(model, clone_function=with_long_names)
    plan = keras_gamma.apply_guidelines(model, l2=1e-4) if with_plan else None
    return keras_gamma.plot_roles(model, tmp_path / "roles.html", plan=plan)


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = make_page(tmp_path).read_text()
    links = Links()
    links.feed(page)
    assert links.found == []
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", page)


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def look(page, tmp_path, *flags):
    """What a script of the page has written down."""
    done = subprocess.run(
        [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL).group(1)
    return json.loads(html.unescape(seen))


# Appended to a copy of the page: uses it as a person would, and writes down what is to be seen.
USE = """
<script>
{
const shown = () => rows.filter(r => !r.hidden).map(r => r.cells[0].textContent);
const faded = () => [...document.querySelectorAll("svg .faded[id^=node]")]
  .map(g => nodes[g.id.slice(4)].label).sort();
const fire = (e, type) => e.dispatchEvent(new Event(type, {bubbles: true}));
const out = {rows: shown(), faded: faded()};
const box = document.querySelector("#filters input[value=interior]");
box.click();
out.withoutInterior = shown(); out.fadedThen = faded();
box.click();
out.again = shown(); out.fadedAgain = faded();
const search = document.getElementById("search");
search.value = "BN0b"; fire(search, "input");
out.searched = shown();
search.value = ""; fire(search, "input");
const [number] = Object.entries(nodes).find(([n, a]) => a.label === "bn0b");
const group = document.getElementById("node" + number);
fire(group, "mouseenter");
out.tip = document.getElementById("tip").innerText;
out.tipShown = !document.getElementById("tip").hidden;
out.lit = rows.filter(r => r.classList.contains("lit")).map(r => r.cells[0].textContent);
fire(group, "mouseleave");
out.tipGone = document.getElementById("tip").hidden;
fire(rows[0], "mouseenter");
out.litBox = [...document.querySelectorAll("svg .lit")].map(g => nodes[g.id.slice(4)].label);
const place = group.getBoundingClientRect();
out.size = [place.width > 20, place.height > 8];
out.columns = [...document.querySelectorAll("thead th")].map(t => t.textContent);
group.dispatchEvent(new MouseEvent("click", {bubbles: true}));
const chosen = () => [...document.querySelectorAll(".chosen")]
  .map(e => e.rowIndex ? e.cells[0].textContent : nodes[e.id.slice(4)].label);
out.chosenByBox = chosen();
rows[0].querySelector("button").click();
out.chosenByRow = chosen();
const names = () => [...document.querySelectorAll("tbody tr")].map(r => r.cells[0].textContent);
const [byName] = document.querySelectorAll("thead th button");
out.sorted = [byName, byName, byName].map(b => { b.click(); return names(); });
byName.click();
out.sortedBy = document.querySelector("thead th").getAttribute("aria-sort");
out.count = document.getElementById("count").textContent;
const pre = document.createElement("pre");
pre.id = "seen"; pre.textContent = JSON.stringify(out);
document.body.append(pre);
}
</script>
"""


@pytest.mark.skipif(browser() is None, reason="needs Chromium or Chrome")
def test_the_page_in_a_browser(tmp_path):
    page = make_page(tmp_path, with_plan=True)
    used = tmp_path / "used.html"
    used.write_text(page.read_text().replace("</body>", f"{USE}</body>"))
    out = look(used, tmp_path)
    gammas = [f"{name}/gamma" for name in ROLES]
    assert sorted(out["rows"]) == sorted(gammas) and out["faded"] == []
    interior = ["stem_bn/gamma", "bn0a/gamma", "bn1a/gamma"]
    assert out["withoutInterior"] == [path for path in out["rows"] if path not in interior]
    assert out["fadedThen"] == ["bn0a", "bn1a", "stem_bn"]
    assert out["again"] == out["rows"] and out["fadedAgain"] == []
    # By its name, and as what absorbs the other.
    assert out["searched"] == ["bn0a/gamma", "bn0b/gamma"]
    assert out["tipShown"] and out["tipGone"]
    assert out["tip"].startswith("bn0b\nresidual_last: It sets the scale of the branch")
    assert out["lit"] == ["bn0b/gamma"]
    assert out["litBox"] == ["stem_bn"]
    assert out["size"] == [True, True]
    assert out["columns"] == ["γ", "kind", "role", "decision", "strength", "why"]
    assert sorted(out["chosenByBox"]) == ["bn0b", "bn0b/gamma"]
    assert sorted(out["chosenByRow"]) == ["stem_bn", "stem_bn/gamma"]
    assert out["sorted"] == [sorted(gammas), sorted(gammas, reverse=True), out["rows"]]
    assert out["sortedBy"] == "ascending"
    assert out["count"] == "6 γ"


# axe-core looks for what keyboards and screen readers cannot reach, and for faint colours.
AXE = """
<script>{axe}</script>
<script>
axe.run().then(found => {{
  parent.postMessage(JSON.stringify({{
    width: innerWidth,
    broken: [...document.querySelectorAll(".word")]
      .filter(w => w.getClientRects().length > 1).map(w => w.textContent),
    names: [...document.querySelectorAll("tbody th")].map(name => new Set(
      [...name.querySelectorAll(".word")].map(w => w.getBoundingClientRect().top)).size),
    wrong: found.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html.slice(0, 99))]),
    passed: found.passes.length,
    wide: document.documentElement.scrollWidth > innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    stacked: document.getElementById("list").getBoundingClientRect().top >=
      document.getElementById("picture").getBoundingClientRect().bottom,
  }}), "*");
}});
</script>
"""
# Headless Chromium has no window under 500 pixels; a frame can have any width.
FRAME = """<!doctype html>
<meta name="color-scheme" content="light dark">
<iframe src="used.html" width="{width}" height="1000" style="border: 0"></iframe>
<script>
addEventListener("message", message => {{
  const pre = document.createElement("pre");
  pre.id = "seen";
  pre.textContent = message.data;
  document.body.append(pre);
}});
</script>
"""


@pytest.mark.one_in(4)
@pytest.mark.skipif(browser() is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_keyboards_and_screen_readers_reach_everything(tmp_path, width, dark):
    package = pytest.importorskip("axe_core_python")
    axe = (pathlib.Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = make_page(tmp_path, with_plan=True, long=True)
    used = tmp_path / "used.html"
    used.write_text(page.read_text().replace("</body>", f"{AXE.format(axe=axe)}</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    out = look(frame, tmp_path, "--window-size=1700,1000", scheme, "--virtual-time-budget=60000")
    assert out["wrong"] == []
    assert out["width"] == width
    assert out["passed"] > 15
    assert out["dark"] is dark
    assert not out["wide"]
    assert out["stacked"] is (width == 400)
    # Names take several lines, and go on behind a sign: a word is cut if no line could hold it.
    assert max(out["names"]) > 1
    assert [word for word in out["broken"] if WORD not in word] == []
