// What was found, as marks in the text, as a table and as JSON. The text is drawn piece by piece;
// the threshold and the legend only draw again.

import { el } from "./dom.js";

const COLUMNS = [
  ["text", "Entity", ""], ["label", "Label", ""], ["score", "Score", "number"],
  ["start", "Start", "number"], ["end", "End", "number"],
];
const MAX_ROWS = 2000;

export class Views {
  threshold = 0.5;
  #pieces = [];
  #documents = [];
  #hidden = new Set();
  #sort = { key: "start", sign: 1 };

  constructor(root, labels) {
    this.labels = labels;
    const get = (id) => root.getElementById(id);
    this.marked = get("marked");
    this.rows = get("rows");
    this.columns = get("columns");
    this.json = get("json");
    this.legend = get("legend");
    this.warnings = get("warnings");
    this.tip = get("tip");
    this.#listen();
    this.#showColumns();
  }

  start(pieces) {
    this.#pieces = pieces;
    this.#documents = [];
    this.#hidden = new Set([...this.#hidden].filter((x) => this.labels.items.some((y) => y.name === x)));
    this.marked.classList.remove("stale");
    this.marked.replaceChildren(...pieces.map((piece) => el("span", { class: "pending" }, piece.text)));
    this.warnings.replaceChildren();
    this.refresh(false);
  }

  add(index, document) {
    this.#documents[index] = document;
    this.#drawPiece(index);
    for (const warning of document.warnings) this.warnings.append(el("li", {}, warning));
  }

  // All entities in offsets of the whole text.
  entities() {
    const found = [];
    this.#documents.forEach((document, index) => {
      const shift = this.#pieces[index].start;
      for (const entity of document.entities) {
        found.push({ ...entity, start: entity.start + shift, end: entity.end + shift });
      }
    });
    return found;
  }

  kept() {
    return this.entities().filter((x) => x.score >= this.threshold && !this.#hidden.has(x.label));
  }

  counts() {
    const all = this.entities();
    const shown = all.filter((x) => x.score >= this.threshold).length;
    return { shown, below: all.length - shown };
  }

  refresh(isRedrawn = true) {
    if (isRedrawn) this.#documents.forEach((_, index) => this.#drawPiece(index));
    this.#showLegend();
    this.#showRows();
    this.#showJson();
    const first = this.marked.querySelector("mark");
    if (first && !this.marked.querySelector('mark[tabindex="0"]')) first.tabIndex = 0;
  }

  #drawPiece(index) {
    const { text } = this.#pieces[index];
    const parts = [];
    let position = 0;
    this.#documents[index].entities.forEach((entity, number) => {
      if (entity.score < this.threshold || this.#hidden.has(entity.label)) return;
      parts.push(text.slice(position, entity.start));
      const mark = el("mark", {
        tabindex: "-1", "data-label": entity.label, "data-piece": index, "data-number": number,
        "aria-describedby": "tip",
      }, text.slice(entity.start, entity.end));
      mark.style.setProperty("--h", this.labels.hue(entity.label));
      parts.push(mark);
      position = entity.end;
    });
    parts.push(text.slice(position));
    const span = this.marked.children[index];
    span.className = "";
    span.replaceChildren(...parts);
  }

  #entityOf(mark) {
    const piece = Number(mark.dataset.piece);
    const entity = this.#documents[piece].entities[Number(mark.dataset.number)];
    const shift = this.#pieces[piece].start;
    return { ...entity, start: entity.start + shift, end: entity.end + shift };
  }

  #listen() {
    const show = (event) => {
      const mark = event.target.closest?.("mark");
      if (mark) this.#showTip(mark);
      else this.tip.hidden = true;
    };
    const hide = () => { this.tip.hidden = true; };
    this.marked.addEventListener("pointerover", show);
    this.marked.addEventListener("pointerleave", hide);
    this.marked.addEventListener("focusin", show);
    this.marked.addEventListener("focusout", hide);
    this.marked.addEventListener("scroll", hide);
    this.marked.addEventListener("click", (event) => event.target.closest("mark")?.focus());
    addEventListener("scroll", hide, { passive: true });
    // One stop for Tab; arrows go from entity to entity.
    this.marked.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      const marks = [...this.marked.querySelectorAll("mark")];
      const at = marks.indexOf(event.target);
      if (at < 0) return;
      let next = step ? marks[at + step] : undefined;
      if (event.key === "Home") [next] = marks;
      if (event.key === "End") next = marks.at(-1);
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  #showTip(mark) {
    const entity = this.#entityOf(mark);
    const definition = this.labels.items.find((x) => x.name === entity.label)?.definition;
    const bar = el("span", { class: "bar" }, el("i"));
    bar.firstChild.style.width = `${100 * entity.score}%`;
    this.tip.replaceChildren(
      el("b", {}, `${entity.label} · ${entity.score.toFixed(2)}`), bar,
      ...(definition ? [el("span", {}, definition), el("br")] : []),
      `characters ${entity.start} to ${entity.end}`,
    );
    this.tip.hidden = false;
    const box = mark.getClientRects()[0];
    const size = this.tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left), innerWidth - size.width - 8);
    const above = box.top - size.height - 8;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above > 0 ? above : box.bottom + 8}px`;
  }

  #showLegend() {
    const counts = new Map(this.labels.items.map((item) => [item.name, 0]));
    for (const entity of this.entities()) {
      if (entity.score >= this.threshold) counts.set(entity.label, (counts.get(entity.label) || 0) + 1);
    }
    const focused = this.legend.contains(document.activeElement)
      ? document.activeElement.dataset.label : undefined;
    this.legend.replaceChildren(...[...counts].map(([name, count]) => {
      const button = el("button", {
        type: "button", "aria-pressed": String(!this.#hidden.has(name)), "data-label": name,
        "aria-label": `${name}, ${count} found`,
      }, `${name} ${count}`);
      button.style.setProperty("--h", this.labels.hue(name));
      button.addEventListener("click", () => {
        if (!this.#hidden.delete(name)) this.#hidden.add(name);
        this.refresh();
      });
      return button;
    }));
    if (focused !== undefined) {
      [...this.legend.children].find((x) => x.dataset.label === focused)?.focus();
    }
  }

  #showColumns() {
    this.columns.replaceChildren(...COLUMNS.map(([key, title, kind]) => {
      const button = el("button", { type: "button" }, title);
      button.addEventListener("click", () => {
        const sign = this.#sort.key === key ? -this.#sort.sign : key === "score" ? -1 : 1;
        this.#sort = { key, sign };
        this.#showRows();
      });
      return el("th", { scope: "col", class: kind, "data-key": key }, button);
    }));
  }

  #showRows() {
    const { key, sign } = this.#sort;
    for (const column of this.columns.children) {
      const order = sign > 0 ? "ascending" : "descending";
      column.setAttribute("aria-sort", column.dataset.key === key ? order : "none");
    }
    const compare = (a, b) => (typeof a[key] === "number" ? a[key] - b[key] : a[key].localeCompare(b[key]));
    const kept = this.kept().sort((a, b) => sign * compare(a, b) || a.start - b.start);
    const rows = kept.slice(0, MAX_ROWS).map((entity) => {
      const label = el("td", { class: "label" }, entity.label);
      label.style.setProperty("--h", this.labels.hue(entity.label));
      return el("tr", {},
        el("td", {}, el("bdi", {}, entity.text)), label,
        el("td", { class: "number" }, entity.score.toFixed(2)),
        el("td", { class: "number" }, String(entity.start)),
        el("td", { class: "number" }, String(entity.end)));
    });
    if (kept.length > MAX_ROWS) {
      rows.push(el("tr", {}, el("td", { colspan: "5" }, `and ${kept.length - MAX_ROWS} more: see JSON`)));
    }
    if (!kept.length) rows.push(el("tr", {}, el("td", { colspan: "5", class: "muted" }, "none")));
    this.rows.replaceChildren(...rows);
  }

  #showJson() {
    if (!this.json.checkVisibility()) return; // drawn when its tab is opened
    const text = this.#pieces.map((piece) => piece.text).join("");
    const warnings = this.#documents.flatMap((document) => document.warnings);
    const shown = { text, entities: this.kept(), warnings, offset_unit: "utf16" };
    this.json.textContent = JSON.stringify(shown, null, 2);
  }
}
