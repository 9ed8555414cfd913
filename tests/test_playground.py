"""The page, in a real headless Chromium: from typing to highlighted entities."""

import base64
import json
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs nomina[serve]")
pytest.importorskip("selenium", reason="needs selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from test_server import TOKEN, ScriptedTagger, running

from nomina.documents import Document
from nomina.entities import Entity
from nomina.server_config import ServerConfig

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM or not CHROMEDRIVER, reason="needs Debian's chromium and chromium-driver"
    ),
]


class LexiconTagger(ScriptedTagger):
    """Finds the words of a small list; knows the page's first example and odd scripts."""

    name = "lexicon"
    model = SimpleNamespace(config=SimpleNamespace(threshold=0.5))
    words = (
        ("george clooney", "actor", 0.97),
        ("denis villeneuve", "director", 0.95),
        ("musical", "genre", 0.94),
        ("science fiction", "genre", 0.92),
        ("animated", "genre", 0.41),
        ("1980s", "year", 0.91),
        ("2004", "year", 0.96),
        ("pixar", "studio", 0.93),
        ("Paris", "city", 0.9),
        ("القاهرة", "city", 0.8),
        ("東京", "city", 0.7),
        ("Rome", "city", 0.3),
    )

    def _document(self, text, labels, threshold):
        if "BLOCK" in text:
            assert self.gate.wait(20)
        found = [
            Entity(word, label, match.start(), match.end(), score)
            for word, label, score in self.words
            for match in re.finditer(re.escape(word), text)
            if label in labels.names
        ]
        warnings = ("a part was not read",) if "WARN" in text else ()
        return Document(text, tuple(sorted(found, key=lambda e: e.start)), warnings)


def make_driver(folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --window-size=1280,900 "
        "--hide-scrollbars --disable-dev-shm-usage"
    )
    for flag in (*flags.split(), f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    found = make_driver(tmp_path_factory.mktemp("chromium"))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def site():
    tagger = LexiconTagger()
    with running(tagger) as server:
        yield tagger, server, f"http://127.0.0.1:{server.port}/"


class Page:
    """What a person does and sees."""

    def __init__(self, driver, url, size=(1280, 900)):
        self.driver = driver
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(url)
        self.wait(lambda: self.status and "Reading" not in self.status)

    def wait(self, condition, seconds=15):
        until = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < until, f"status: {self.status!r}"
            time.sleep(0.02)
        return value

    def get(self, name):
        return self.driver.find_element(By.ID, name)

    @property
    def status(self):
        return self.get("status").text

    def marks(self):
        """Marked texts and labels, read in one go so that a redraw cannot come between."""
        script = """return [...document.querySelectorAll("mark")]
            .map(m => [m.textContent, m.dataset.label])"""
        return [tuple(x) for x in self.driver.execute_script(script)]

    def table(self):
        script = """return [...document.querySelectorAll('#rows tr')]
            .map(r => [...r.cells].map(c => c.textContent))"""
        return self.driver.execute_script(script)

    def type(self, text, labels):
        """Type a text and labels as a person does, with the keyboard alone."""
        area = self.get("text")
        area.send_keys(Keys.CONTROL, "a")
        self.set(text)
        field = self.get("label-input")
        field.send_keys(Keys.BACKSPACE * 12)
        for label in labels:
            field.send_keys(label, Keys.ENTER)
        field.send_keys(Keys.CONTROL, Keys.ENTER)
        self.wait(lambda: re.search(r"in [\d.]+ s$", self.status))

    def set(self, text):
        # ChromeDriver types no emoji; a paste is what people do with those
        script = """const t = document.getElementById('text'); t.value = arguments[0];
            t.dispatchEvent(new Event('input', {bubbles: true}))"""
        self.driver.execute_script(script, text)

    def errors(self):
        return [x["message"] for x in self.driver.get_log("browser") if x["level"] == "SEVERE"]

    def shot(self, name, full=False):
        """Write a screenshot to the folder `NOMINA_SHOTS`, if there is one, to be looked at."""
        if folder := os.environ.get("NOMINA_SHOTS"):
            options = {"captureBeyondViewport": full, "format": "png"}
            data = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
            (Path(folder) / name).write_bytes(base64.b64decode(data))


@pytest.fixture
def page(driver, site):
    found = Page(driver, site[2])
    yield found
    assert found.errors() == []  # nothing thrown, nothing the policy had to block


def test_the_first_example_is_shown_at_once(page):
    assert page.marks() == [
        ("george clooney", "actor"),
        ("musical", "genre"),
        ("1980s", "year"),
        ("science fiction", "genre"),
        ("denis villeneuve", "director"),
        ("pixar", "studio"),
        ("2004", "year"),
    ]
    assert re.fullmatch(r"7 entities, 1 more below 0\.50 in \d+\.\d\d s", page.status)
    assert page.get("model").text == "lexicon"


def test_from_typing_to_marks(page):
    page.type("from Paris to Rome", ["city: a large town", "river"])
    assert page.marks() == [("Paris", "city")]
    assert page.get("marked").text == "from Paris to Rome"
    chips = page.driver.find_elements(By.CSS_SELECTOR, ".chip button:first-child")
    assert chips[0].get_attribute("aria-label") == "Edit city, a large town"
    assert chips[1].get_attribute("aria-label") == "Edit river, no definition"


@pytest.mark.parametrize(
    "text",
    ["🎬🎬 in Paris 👩‍👩‍👧 and Paris", "في القاهرة 🎬 القاهرة", "𠮷野家は東京、東京", "Paris"],
)
def test_offsets_are_right_in_any_script(page, text):
    page.type(text, ["city"])
    rows = page.table()
    assert rows
    for surface, label, _, start, end in rows:
        have = page.driver.execute_script(
            "return document.getElementById('text').value.slice(arguments[0], arguments[1])",
            int(start),
            int(end),
        )
        assert (have, label) == (surface, "city")
    assert [surface for surface, _ in page.marks()] == [row[0] for row in rows]
    assert page.get("marked").get_attribute("textContent") == text


def test_the_slider_needs_no_new_request(page, site):
    page.type("from Paris to Rome", ["city"])
    num_taken = len(site[0].taken)
    slider = page.get("threshold")
    slider.send_keys(Keys.HOME)
    assert page.marks() == [("Paris", "city"), ("Rome", "city")]
    assert page.status == "2 entities"
    slider.send_keys(Keys.END)
    assert page.marks() == []
    assert page.status == "0 entities, 2 more below 1.00"
    assert len(site[0].taken) == num_taken


def test_entities_are_shown_as_they_arrive(page, site):
    site[0].gate.clear()
    long = "Paris " * 100
    try:
        page.get("live").click()
        page.set(f"{long}\n\nBLOCK Paris and 東京")
        page.get("label-input").send_keys("city", Keys.ENTER)
        page.get("run").click()
        page.wait(lambda: len(page.marks()) == 100)
        assert page.driver.find_elements(By.CSS_SELECTOR, ".pending")
        assert "1 of 2 parts" in page.wait(lambda: "parts" in page.status and page.status)
    finally:
        site[0].gate.set()
    page.wait(lambda: len(page.marks()) == 102)
    rows = page.table()
    assert int(rows[-1][3]) == len(long) + 2 + len("BLOCK Paris and ")


def test_a_new_text_gives_up_the_old_one(page, site):
    service = site[1]._service
    gone = service.metrics.gone._value.get()
    site[0].gate.clear()
    page.set("BLOCK")
    page.wait(lambda: service._clients.total() == 1)
    page.set("in Paris")
    page.wait(lambda: service.metrics.gone._value.get() > gone)
    site[0].gate.set()
    page.wait(lambda: "entit" in page.status and " in " in page.status)


def test_hover_and_keys_show_the_score(page):
    page.type("from Paris to Rome to Paris", ["city: a large town"])
    actions = webdriver.ActionChains(page.driver)
    mark = page.driver.find_element(By.TAG_NAME, "mark")
    actions.move_to_element(mark).perform()
    assert page.get("tip").text == "city · 0.90\na large town\ncharacters 5 to 10"
    actions.move_to_element(page.get("results-title")).perform()
    assert not page.get("tip").is_displayed()
    page.get("tab-text").send_keys(Keys.TAB)  # one stop for all entities
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.get("tip").text.endswith("characters 22 to 27")
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.get("tip").is_displayed()


def test_chips_by_keyboard(page):
    page.type("Paris", ["city", "river: flowing water"])

    def names():
        script = """return [...document.querySelectorAll('.chip button:first-child')]
            .map(x => x.textContent)"""
        return page.driver.execute_script(script)

    field = page.get("label-input")
    field.send_keys("lake, City, ,sea,")  # a doubled one and an empty one are not added
    assert names() == ["city", "river", "lake", "sea"]
    field.send_keys(Keys.ARROW_LEFT)
    active = page.driver.switch_to.active_element
    assert active.get_attribute("aria-label") == "Edit sea, no definition"
    active.send_keys(Keys.ARROW_LEFT)
    page.driver.switch_to.active_element.send_keys(Keys.DELETE)
    assert names() == ["city", "river", "sea"]
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.get("editor").is_displayed()
    page.get("edit-definition").send_keys("salt water")
    page.get("edit-name").send_keys(" or ocean", Keys.ENTER)
    assert not page.get("editor").is_displayed()
    active = page.driver.switch_to.active_element
    assert active.get_attribute("aria-label") == "Edit sea or ocean, salt water"
    page.driver.execute_script("document.getElementById('label-input').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.BACKSPACE)
    assert names() == ["city", "river"]


def test_table_json_and_legend(page):
    page.type("from Paris to Rome", ["city", "river"])
    page.get("threshold").send_keys(Keys.HOME)
    page.get("tab-text").send_keys(Keys.ARROW_RIGHT)
    assert page.get("view-table").is_displayed()
    assert [row[0] for row in page.table()] == ["Paris", "Rome"]
    page.driver.find_element(By.CSS_SELECTOR, '[data-key="text"] button').click()
    page.driver.find_element(By.CSS_SELECTOR, '[data-key="text"] button').click()
    assert [row[0] for row in page.table()] == ["Rome", "Paris"]
    page.get("tab-table").send_keys(Keys.ARROW_RIGHT)
    data = json.loads(page.get("json").text)
    assert data["text"] == "from Paris to Rome"
    assert [e["label"] for e in data["entities"]] == ["city", "city"]
    page.driver.find_element(By.CSS_SELECTOR, '#legend button[data-label="city"]').click()
    assert page.marks() == []
    assert json.loads(page.get("json").text)["entities"] == []
    page.driver.find_element(By.CSS_SELECTOR, '#legend button[data-label="city"]').click()
    assert len(page.marks()) == 2


def test_curl_and_python_do_the_same(page, site):
    text = 'it\'s "Paris" \\ $HOME `x` 🎬\nRome'
    page.type(text, ["city: a 'large' town"])
    page.get("tab-code").click()
    command, code = page.get("curl").text, page.get("python").text
    import subprocess

    have = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    document = json.loads(have)["documents"][0]
    assert document["text"] == text
    assert [e["text"] for e in document["entities"]] == ["Paris"]
    assert site[0].label_sets[-1][0].definition == "a 'large' town"
    import contextlib
    import io
    from unittest import mock

    from nomina.client import Client

    out = io.StringIO()
    clients = []

    def connect(*args):
        clients.append(Client(*args))
        return clients[-1]

    fake = SimpleNamespace(Client=connect)
    with mock.patch.dict("sys.modules", nomina=fake), contextlib.redirect_stdout(out):
        exec(compile(code, "copied", "exec"), {})
    clients[0].close()
    assert out.getvalue() == "city Paris 6 11 0.9\n"


def test_share_by_fragment(page, driver, site):
    page.type("🎬 from Paris to Rome", ["city: a large town", "river"])
    page.get("threshold").send_keys(Keys.HOME)
    page.get("share").click()
    url = page.wait(lambda: "#s=" in driver.current_url and driver.current_url)
    assert "Paris" not in url
    other = Page(driver, url)
    other.wait(lambda: len(other.marks()) == 2)
    assert other.get("text").get_attribute("value") == "🎬 from Paris to Rome"
    chip = driver.find_element(By.CSS_SELECTOR, ".chip button")
    assert chip.get_attribute("aria-label") == "Edit city, a large town"
    # What is not a state is not looked at
    broken = Page(driver, site[2] + "#s=%3Cscript%3E")
    assert len(broken.marks()) == 7


def test_a_file_can_be_opened(page, tmp_path):
    page.type("x", ["city"])
    path = tmp_path / "a.txt"
    path.write_text("Paris, 東京", encoding="utf-8")
    page.get("file").send_keys(str(path))
    page.wait(lambda: page.marks() == [("Paris", "city"), ("東京", "city")])
    path.write_bytes(b"\xff\xfe\x00")
    page.get("file").send_keys(str(path))
    page.wait(lambda: "is not a text in UTF-8" in page.status)


def test_a_file_can_be_dropped(page):
    page.type("x", ["city"])
    page.driver.execute_script(
        """const data = new DataTransfer();
        data.items.add(new File(["in Paris"], "a.txt", {type: "text/plain"}));
        for (const kind of ["dragover", "drop"])
          document.getElementById("text").dispatchEvent(
            new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));"""
    )
    page.wait(lambda: page.marks() == [("Paris", "city")])


def test_markup_in_texts_and_labels_stays_text(page):
    evil = "<img src=x onerror=alert(1)> Paris <script>alert(2)</script>"
    page.type(evil, ["city", "<b>bold</b>"])
    assert page.get("marked").text == evil
    assert page.marks() == [("Paris", "city")]
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#marked img, #marked script, #chips b")


def test_warnings_and_errors_are_said(page, site):
    page.type("WARN Paris", ["city"])
    assert page.get("warnings").text == "a part was not read"
    page.get("label-input").send_keys(Keys.BACKSPACE)
    page.wait(lambda: page.status == "Add a label: what should be found?")
    site[1]._service.is_draining = True
    try:
        page.get("label-input").send_keys("city", Keys.ENTER)
        page.wait(lambda: "the server is shutting down" in page.status)
        assert "Try again in 5 s." in page.status
    finally:
        site[1]._service.is_draining = False
    assert all("503" in message for message in page.errors())


def test_screen_readers_are_told_names(page):
    """Every control has a name, every id that is referred to exists, nothing is named twice."""
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "slider", "tab", "checkbox", "tabpanel", "progressbar", "table"}
    unnamed = [
        node["role"]["value"]
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in roles
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    broken = page.driver.execute_script(
        """const ids = [...document.querySelectorAll("[id]")].map(x => x.id);
        const refs = [...document.querySelectorAll(
          "[for],[aria-controls],[aria-labelledby],[aria-describedby]")]
          .flatMap(x => ["for", "aria-controls", "aria-labelledby", "aria-describedby"]
          .map(a => x.getAttribute(a)).filter(Boolean));
        return [refs.filter(x => !ids.includes(x)), ids.length - new Set(ids).size]"""
    )
    assert broken == [[], 0]


CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d");
const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.03928
  ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
const back = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e)
  .backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255]; };
const bad = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.closest(".skip, .visually-hidden, noscript")) continue;
  for (const pseudo of e.tagName === "MARK" ? [null, "::after"] : [null]) {
    const [a, b] = [light(rgb(getComputedStyle(e, pseudo).color)), light(back(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push([e.tagName, e.id, pseudo, e.textContent.slice(0, 20), ratio]);
  }
}
return bad;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (375, 812), (320, 640)])
def test_every_width_and_theme_can_be_read(driver, site, theme, size):
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        page = Page(driver, site[2], size)
        time.sleep(0.4)  # marks fade in
        assert driver.execute_script(CONTRAST) == []
        script = "return document.documentElement.scrollWidth - window.innerWidth"
        assert driver.execute_script(script) <= 0  # nothing to scroll sideways to
        small = driver.execute_script(
            """return [...document.querySelectorAll("button, input, .button")]
            .filter(x => x.checkVisibility() && !x.classList.contains("visually-hidden"))
            .map(x => [x.id || x.textContent, x.getBoundingClientRect().height])
            .filter(x => x[1] < 13)"""
        )
        assert small == []
        page.shot(f"{theme}-{size[0]}.png", full=size[0] < 1000)
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_theme_can_be_chosen(page):
    button = page.get("theme")
    button.click()
    button.click()
    script = "return getComputedStyle(document.body).backgroundColor"
    assert page.driver.execute_script(script) == "rgb(19, 19, 24)"
    page.driver.refresh()
    assert page.driver.execute_script(script) == "rgb(19, 19, 24)"
    page.get("theme").click()


def test_a_token_is_asked_for(driver):
    with running(LexiconTagger(), ServerConfig(port=0, tokens=(TOKEN,))) as server:
        page = Page(driver, f"http://127.0.0.1:{server.port}/")
        form = page.get("token-form")
        page.wait(form.is_displayed)
        page.get("token").send_keys(TOKEN, Keys.ENTER)
        page.wait(lambda: len(page.marks()) == 7)
        assert not form.is_displayed()
        page.get("tab-code").click()
        assert "$NOMINA_TOKEN" in page.get("curl").text
        assert TOKEN not in page.driver.page_source


def test_a_long_text_stays_quick(page):
    text = "\n\n".join(f"from Paris to {number} " + "word " * 120 for number in range(300))
    page.type(text, ["city"])
    page.wait(lambda: len(page.marks()) == 300)
    assert page.get("marked").get_attribute("textContent") == text


@pytest.mark.skipif("NOMINA_SHOTS_MODEL" not in os.environ, reason="needs a model to show")
def test_screenshots_for_the_docs(driver):
    """NOMINA_SHOTS=docs/images NOMINA_SHOTS_MODEL=... pytest tests/test_playground.py -k docs."""
    import nomina

    def choose(page, number):
        page.driver.find_elements(By.CSS_SELECTOR, "#examples button")[number].click()
        time.sleep(0.1)
        page.wait(lambda: re.search(r"in [\d.]+ s$", page.status), 120)
        page.driver.execute_script("document.activeElement.blur()")
        time.sleep(0.4)

    tagger = nomina.load(os.environ["NOMINA_SHOTS_MODEL"] or None)
    with running(tagger) as server:
        url = f"http://127.0.0.1:{server.port}/"
        page = Page(driver, url, (1280, 720))
        choose(page, 3)
        page.shot("playground.png")
        mark = driver.find_elements(By.TAG_NAME, "mark")[1]
        webdriver.ActionChains(driver).move_to_element(mark).perform()
        page.shot("playground-hover.png")
        page.get("tab-table").click()
        page.shot("playground-table.png")
        page.get("tab-code").click()
        page.shot("playground-code.png")
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page = Page(driver, url, (390, 844))
        choose(page, 0)
        page.shot("playground-phone.png", full=True)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
