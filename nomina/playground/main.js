// Wires the page together: what is typed becomes a request, what arrives is shown.

import { ApiError, extract, hasToken, models, setToken } from "./api.js";
import { el } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Labels } from "./labels.js";
import { decode, encode } from "./share.js";
import { curl, pythonCode } from "./snippets.js";
import { pieces } from "./text.js";
import { Views } from "./views.js";

const get = (id) => document.getElementById(id);
const text = get("text");
const status = get("status");
const progress = get("progress");
const threshold = get("threshold");
const labels = new Labels(document);
const views = new Views(document, labels);
const base = new URL(".", location.href).href.split("#")[0];
const DEBOUNCE_MS = 400;

let limits = { max_text_chars: 20000, max_texts: 1000 };
let running; // the AbortController of the request under way
let timer;
let wanted = ""; // the request whose results are shown
let isTokenNeeded = hasToken();

// ---- requests

function request() {
  const parts = pieces(text.value, Math.min(limits.max_text_chars, 20000), limits.max_texts / 2);
  return { parts, body: { texts: parts.map((x) => x.text), labels: labels.request() } };
}

function say(message, isError = false) {
  status.textContent = message;
  status.classList.toggle("error", isError);
}

function summary() {
  const { shown, below } = views.counts();
  const entities = shown === 1 ? "1 entity" : `${shown} entities`;
  return below ? `${entities}, ${below} more below ${Number(threshold.value).toFixed(2)}` : entities;
}

async function run() {
  clearTimeout(timer);
  running?.abort(); // the server drops what it has not read yet
  const { parts, body } = request();
  if (!text.value.trim()) return clear("Paste a text, or choose an example.");
  if (!labels.items.length) return clear("Add a label: what should be found?");
  const mine = new AbortController();
  running = mine;
  wanted = JSON.stringify(body);
  views.start(parts);
  progress.hidden = parts.length < 2;
  progress.max = parts.length;
  progress.value = 0;
  say("Reading …");
  const started = performance.now();
  let isWaiting = false;
  try {
    // Everything is asked for, so that the slider needs no new request
    for await (const item of extract({ ...body, threshold: 0, offset_unit: "utf16" }, mine.signal)) {
      if (mine.signal.aborted) return undefined;
      if (item.done) break;
      views.add(item.index, item.document);
      progress.value = item.index + 1;
      if (!isWaiting) {
        isWaiting = true; // counts and tables at most once a frame
        requestAnimationFrame(() => {
          isWaiting = false;
          if (running === mine) {
            views.refresh(false);
            say(`${progress.value} of ${parts.length} parts, ${summary()} …`);
          }
        });
      }
    }
    if (running !== mine) return undefined;
    running = undefined;
    views.refresh(false);
    say(`${summary()} in ${((performance.now() - started) / 1000).toFixed(2)} s`);
  } catch (error) {
    if (mine.signal.aborted) return undefined;
    running = undefined;
    if (error.status === 401) askForToken();
    const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    say(error instanceof ApiError ? error.message + again : `Something went wrong: ${error}`, true);
  } finally {
    if (running === mine || running === undefined) progress.hidden = true;
  }
  return undefined;
}

function clear(message) {
  running = undefined;
  wanted = "";
  views.start([]);
  progress.hidden = true;
  say(message);
}

function changed() {
  clearTimeout(timer);
  get("length").textContent = `${text.value.length.toLocaleString("en")} characters`;
  showCode();
  if (JSON.stringify(request().body) === wanted) return;
  views.marked.classList.add("stale");
  if (get("live").checked) timer = setTimeout(run, DEBOUNCE_MS);
}

function showCode() {
  if (get("view-code").hidden) return;
  const body = { ...request().body, threshold: Number(threshold.value) };
  get("curl").textContent = curl(body, base, isTokenNeeded);
  get("python").textContent = pythonCode(body, base, isTokenNeeded);
}

function askForToken() {
  isTokenNeeded = true;
  get("token-form").hidden = false;
  get("token").focus();
}

async function showModel() {
  try {
    const [model] = await models();
    limits = model.limits;
    setThreshold(model.default_threshold);
    get("model").textContent = model.id;
  } catch (error) {
    if (error.status === 401) askForToken();
  }
}

function load(state) {
  text.value = state.text;
  labels.set(state.labels);
  if (state.threshold !== undefined) setThreshold(state.threshold);
  changed();
  run();
}

function setThreshold(value) {
  threshold.value = value;
  get("threshold-value").textContent = Number(threshold.value).toFixed(2);
  views.threshold = Number(threshold.value);
}

// ---- events

text.addEventListener("input", changed);
labels.addEventListener("change", changed);
get("run").addEventListener("click", run);
get("live").addEventListener("change", () => get("live").checked && changed());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
});
threshold.addEventListener("input", () => {
  setThreshold(threshold.value);
  views.refresh();
  showCode();
  if (!running && wanted) say(summary());
});

for (const example of EXAMPLES) {
  const button = el("button", { type: "button", class: "small" }, example.title);
  button.addEventListener("click", () => load(example));
  get("examples").append(button);
}

async function open(file) {
  if (!file) return;
  if (file.size > 2_000_000) {
    say(`${file.name} is larger than 2 MB. Use the API for files of this size.`, true);
    return;
  }
  try {
    text.value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    say(`${file.name} is not a text in UTF-8.`, true);
    return;
  }
  changed();
  run();
}
get("file").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  text.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) text.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  text.classList.remove("dropping");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});

const tabs = [...document.querySelectorAll("[role=tab]")];
function select(tab) {
  for (const other of tabs) {
    const isSelected = other === tab;
    other.setAttribute("aria-selected", String(isSelected));
    other.tabIndex = isSelected ? 0 : -1;
    get(other.getAttribute("aria-controls")).hidden = !isSelected;
  }
  views.refresh(false);
  showCode();
}
for (const tab of tabs) tab.addEventListener("click", () => select(tab));
get("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const at = tabs.indexOf(event.target);
  const next = step ? tabs.at((at + step) % tabs.length)
    : { Home: tabs[0], End: tabs.at(-1) }[event.key];
  if (!next) return;
  event.preventDefault();
  select(next);
  next.focus();
});

async function copy(value, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(value);
    button.textContent = "Copied";
    say("Copied.");
  } catch {
    say("The browser does not let this page copy; select the text and copy it yourself.", true);
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(get(button.dataset.copy).textContent, button));
}
get("share").addEventListener("click", async () => {
  const state = { text: text.value, labels: labels.items, threshold: Number(threshold.value) };
  history.replaceState(null, "", await encode(state));
  await copy(location.href, get("share"));
});
addEventListener("hashchange", async () => {
  const state = await decode(location.hash);
  if (state) load(state);
});

const THEMES = { system: "as the system", light: "light", dark: "dark" };
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  get("theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
  get("theme").textContent = { system: "Theme", light: "Light", dark: "Dark" }[theme];
  localStorage.setItem("nomina-theme", theme);
}
get("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const now = document.documentElement.dataset.theme || "system";
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
});

get("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setToken(get("token").value.trim());
  get("token").value = "";
  get("token-form").hidden = true;
  await showModel();
  run();
});

// ---- start

const theme = localStorage.getItem("nomina-theme");
if (theme in THEMES) setTheme(theme);
await showModel();
load((await decode(location.hash)) || EXAMPLES[0]);
