"""The pages in a real browser, at 1280 and 360 pixels, light and dark: nothing missing, cut off or hard to read.

One frame a page and width stands in a small page whose script looks into the frames and writes down what it finds.
"""

import json
import re
import shutil
import subprocess

import pytest
from made_up_board import write_board_folders
from made_up_fit import write_made_up_fit

import lookaway
from lookaway.reports.pages.board import write_board
from lookaway.reports.pages.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]
WIDTHS = (1280, 360)
LOOK = """<!doctype html><body style="margin:0">%s<script>
const light = part => { const s = part / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4 };
const level = rgb => 0.2126 * light(rgb[0]) + 0.7152 * light(rgb[1]) + 0.0722 * light(rgb[2]);
const colour = words => words.match(/[\\d.]+/g).map(Number);
function ground(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const c = colour(view.getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
function contrast(element, view) {
  const [a, b] = [level(colour(view.getComputedStyle(element).color)), level(ground(element, view))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
function look(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const found = {name: frame.name, dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
                 wide: root.scrollWidth - root.clientWidth, beyond: [], missing: [], faint: [], cut: [], tiny: [],
                 images: page.images.length, figures: page.querySelectorAll("svg").length, texts: 0};
  for (const e of page.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > root.clientWidth + 1 && !e.closest(".scroll")) found.beyond.push(e.tagName);
    const words = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!words || !box.width || e.closest(".gone")) continue;
    found.texts += 1;
    if (contrast(e, view) < 4.5) found.faint.push([e.textContent.trim().slice(0, 40), contrast(e, view)]);
    if (e.tagName === "text") {
      const frame = e.ownerSVGElement.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        found.cut.push(e.textContent);
      if (box.height < 6.5 && box.width > box.height) found.tiny.push([e.textContent, box.height]);
    }
  }
  for (const i of page.images) if (!i.complete || !i.naturalWidth) found.missing.push(i.alt);
  return found;
}
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(look);
  const out = document.createElement("pre");
  out.id = "found"; out.textContent = JSON.stringify(seen); document.body.append(out);
});
</script></body>"""


@pytest.fixture(scope="module")
def pages(records, study_records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "fit").mkdir()
    fit = write_report(write_made_up_fit(folder / "fit"), folder / "fit.html")
    return folder, [
        write_report(records, folder / "policy.html"),
        write_report(study_records, folder / "study.html"),
        fit,
    ]


def chromium(folder, *arguments):
    return subprocess.run(
        [BROWSER, "--no-sandbox", "--headless=new", "--disable-gpu", "--hide-scrollbars", "--mute-audio",
         "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *arguments],
        capture_output=True, text=True, timeout=120, check=True, cwd=folder,
    )  # fmt: skip


def written(done):
    """What the script found."""
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def faults(done):
    """What the page or the browser complained about."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_missing_cut_off_or_hard_to_read(pages, dark):
    folder, files = pages
    frames = "".join(
        f'<iframe name="{file.stem} {width}" src="{file.name}" width="{width}" height="900" style="border:0"></iframe>'
        for file in files for width in WIDTHS
    )  # fmt: skip
    (folder / "look.html").write_text(LOOK % frames)
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(folder, scheme, "--window-size=1400,1000", "--dump-dom", (folder / "look.html").as_uri())
    assert faults(done) == []
    seen = written(done)
    assert [frame["name"] for frame in seen] == [f"{file.stem} {width}" for file in files for width in WIDTHS]
    for frame in seen:
        assert frame["dark"] == dark
        assert frame["texts"] > 200
        assert frame["images"] > 1 or frame["name"].startswith("fit")  # its pictures are inside SVG
        assert frame["figures"] > 8
        assert frame["wide"] <= 0, frame["name"]
        for trouble in ("beyond", "missing", "faint", "cut", "tiny"):
            assert frame[trouble] == [], (frame["name"], trouble)


USE = """<body><iframe src="board.html" width="1280" height="900"></iframe><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, seen = {};
  const section = () => [...page.querySelectorAll("section")].filter(s => !s.hidden);
  const rows = () => [...section()[0].querySelectorAll(".rows tr")].filter(r => !r.hidden);
  const column = n => rows().map(r => r.cells[n].innerText);
  const pick = (name, value) => {
    const menu = page.querySelector(`select[data-of=${name}]`);
    menu.value = value; menu.dispatchEvent(new Event("change", {bubbles: true}));
  };
  const press = n => section()[0].querySelectorAll("th button")[n].click();
  seen.all = section().length;
  pick("model", [...page.querySelectorAll("select[data-of=model] option")].at(-1).value);
  seen.model = section().length;
  pick("data", [...page.querySelectorAll("select[data-of=data] option")].find(o => o.value.startsWith("mini")).value);
  seen.data = section().length; seen.costs = column(1);
  press(4); seen.up = column(4); press(4); seen.down = column(4);
  pick("method", "uniform tokens"); seen.method = column(4);
  pick("cost", "0.2"); seen.cost = column(4);
  pick("method", "fastv"); seen.none = section().length; seen.words = page.getElementById("none").innerText;
  const out = document.createElement("pre");
  out.id = "found"; out.textContent = JSON.stringify(seen); document.body.append(out);
});
</script></body>"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_board_is_readable_and_sorts_and_filters(tmp_path, dark):
    write_board(write_board_folders(tmp_path), tmp_path / "board.html", lookaway.__version__)
    frames = (
        f'<iframe name="{w}" src="board.html" width="{w}" height="900" style="border:0"></iframe>' for w in WIDTHS
    )
    (tmp_path / "look.html").write_text(LOOK % "".join(frames))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(tmp_path, scheme, "--window-size=1400,1000", "--dump-dom", (tmp_path / "look.html").as_uri())
    assert faults(done) == []
    for frame in written(done):
        assert frame["dark"] == dark
        assert frame["texts"] > 60
        assert frame["wide"] <= 0
        assert frame["beyond"] == frame["faint"] == frame["cut"] == []
    if dark:
        return
    (tmp_path / "use.html").write_text(USE)
    done = chromium(tmp_path, "--dump-dom", (tmp_path / "use.html").as_uri())
    assert faults(done) == []
    up = ["80.0 % (75.0 to 82.0)", "90.0 % (85.0 to 92.0)", "91.0 % (86.0 to 93.0)", "96.5 % (91.5 to 98.5)",
          "97.0 % (92.0 to 99.0)"]  # fmt: skip
    assert written(done) == {
        "all": 4, "model": 3, "data": 1, "costs": ["20.0 %", "20.0 %", "30.0 %", "30.0 %", "55.0 %"],
        "up": up, "down": up[::-1],
        "method": ["90.0 % (85.0 to 92.0)", "80.0 % (75.0 to 82.0)"], "cost": ["80.0 % (75.0 to 82.0)"], "none": 0,
        "words": "Nothing here fits all four choices.",
    }  # fmt: skip


def test_the_judge_sees_faults(tmp_path):
    """A page that is too wide, faint, cut off and without its image."""
    (tmp_path / "bad.html").write_text(
        '<body><p style="color:#999">faint</p><div style="width:900px">wide</div><img src="gone.png" alt="gone">'
        '<svg width="40" height="20"><text x="30" y="12">cut off</text><text x="1" y="9" font-size="3">tiny words'
        "</text></svg></body>"
    )
    (tmp_path / "look.html").write_text(LOOK % '<iframe name="bad" src="bad.html" width="360" height="900"></iframe>')
    done = chromium(tmp_path, "--dump-dom", (tmp_path / "look.html").as_uri())
    (frame,) = written(done)
    assert frame["wide"] > 0
    assert frame["beyond"]
    assert frame["missing"] == ["gone"]
    assert [text for text, _ in frame["faint"]] == ["faint"]
    assert frame["cut"] == ["cut off"]
    assert [text for text, _ in frame["tiny"]] == ["tiny words"]


def test_it_prints(pages):
    folder, files = pages
    for file in files:
        paper = folder / f"{file.stem}.pdf"
        done = chromium(folder, f"--print-to-pdf={paper}", file.as_uri())
        assert faults(done) == []
        assert paper.read_bytes().startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) > 1
