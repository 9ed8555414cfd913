// Labels as chips: typed, edited and removed by keyboard or pointer.

import { el } from "./dom.js";

export const hue = (index) => Math.round((0.58 + index * 0.618034) * 360) % 360;

const fold = (name) => name.replaceAll("_", " ").toLowerCase().split(/\s+/).filter(Boolean).join(" ");
const clean = (text) => text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, " ").trim();

export class Labels extends EventTarget {
  #items = [];
  #editing = -1;

  constructor(root) {
    super();
    const get = (id) => root.getElementById(id);
    this.list = get("chips");
    this.input = get("label-input");
    this.editor = get("editor");
    this.name = get("edit-name");
    this.definition = get("edit-definition");
    this.input.addEventListener("keydown", (event) => this.#typed(event));
    this.input.addEventListener("input", () => {
      if (this.input.value.includes(",") && !this.input.value.includes(":")) this.#take();
    });
    this.input.addEventListener("paste", (event) => {
      const text = event.clipboardData.getData("text");
      if (!text.includes("\n")) return;
      event.preventDefault();
      for (const line of text.split("\n")) this.#add(line);
      this.#changed();
    });
    this.input.addEventListener("blur", () => this.#take());
    get("edit-done").addEventListener("click", () => this.#close());
    get("edit-remove").addEventListener("click", () => this.#remove(this.#editing));
    this.editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape" || (event.key === "Enter" && !event.ctrlKey)) {
        event.preventDefault();
        this.#close();
      }
    });
    for (const field of [this.name, this.definition]) {
      field.addEventListener("input", () => this.#edited());
    }
    this.list.addEventListener("keydown", (event) => this.#moved(event));
  }

  get items() {
    return this.#items.map((item) => ({ ...item }));
  }

  set(items) {
    this.#items = [];
    this.#editing = -1;
    this.editor.hidden = true;
    for (const { name, definition } of items) this.#add(name, definition || "");
    this.#show();
  }

  // What the API takes: names, or an object if any has a definition.
  request() {
    if (this.#items.every((item) => !item.definition)) return this.#items.map((item) => item.name);
    return Object.fromEntries(this.#items.map((item) => [item.name, item.definition]));
  }

  hue(name) {
    const index = this.#items.findIndex((item) => item.name === name);
    return hue(index < 0 ? this.#items.length : index);
  }

  #add(raw, definition) {
    let name = clean(raw);
    if (definition === undefined) {
      const colon = name.indexOf(":");
      definition = colon > 0 ? clean(name.slice(colon + 1)) : "";
      if (colon > 0) name = clean(name.slice(0, colon));
    }
    const known = this.#items.find((item) => fold(item.name) === fold(name));
    if (!fold(name)) return;
    if (known) known.definition ||= definition;
    else this.#items.push({ name, definition: clean(definition) });
  }

  #take() {
    const { value } = this.input;
    if (!value.trim()) return;
    for (const part of value.includes(":") ? [value] : value.split(",")) this.#add(part);
    this.input.value = "";
    this.#changed();
  }

  #typed(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.#take();
    } else if (event.key === "Enter") {
      this.#take();
    } else if (event.key === "Backspace" && !this.input.value && this.#items.length) {
      event.preventDefault();
      this.#remove(this.#items.length - 1, false);
    } else if (event.key === "ArrowLeft" && !this.input.value && this.#items.length) {
      this.#chip(this.#items.length - 1)?.focus();
    }
  }

  #moved(event) {
    const index = Number(event.target.closest("li")?.dataset.index);
    if (Number.isNaN(index)) return;
    if (event.key === "ArrowLeft") this.#chip(Math.max(0, index - 1)).focus();
    else if (event.key === "ArrowRight") (this.#chip(index + 1) || this.input).focus();
    else if (event.key === "Delete" || event.key === "Backspace") this.#remove(index);
    else return;
    event.preventDefault();
  }

  #chip(index) {
    return this.list.children[index]?.querySelector("button");
  }

  #edit(index) {
    this.#editing = index;
    const item = this.#items[index];
    this.name.value = item.name;
    this.definition.value = item.definition;
    this.editor.hidden = false;
    this.#show();
    this.definition.focus();
  }

  #edited() {
    const item = this.#items[this.#editing];
    const name = clean(this.name.value);
    const others = this.#items.filter((other) => other !== item);
    const isFree = fold(name) && others.every((other) => fold(other.name) !== fold(name));
    this.name.setAttribute("aria-invalid", String(!isFree));
    if (isFree) item.name = name;
    item.definition = clean(this.definition.value);
    this.#changed();
  }

  #close() {
    const index = this.#editing;
    this.#editing = -1;
    this.editor.hidden = true;
    this.#show();
    (this.#chip(index) || this.input).focus();
  }

  #remove(index, isFocused = true) {
    this.#items.splice(index, 1);
    this.#editing = -1;
    this.editor.hidden = true;
    this.#changed();
    if (isFocused) (this.#chip(Math.min(index, this.#items.length - 1)) || this.input).focus();
  }

  #changed() {
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    const focused = this.list.contains(document.activeElement)
      ? Number(document.activeElement.closest("li").dataset.index)
      : -1;
    this.list.replaceChildren(...this.#items.map((item, index) => {
      const about = item.definition ? `, ${item.definition}` : ", no definition";
      const edit = el("button", {
        type: "button", title: item.definition, "aria-label": `Edit ${item.name}${about}`,
        "aria-expanded": String(index === this.#editing), "aria-controls": "editor",
      }, item.name);
      edit.addEventListener("click", () => {
        if (index === this.#editing) this.#close();
        else this.#edit(index);
      });
      const remove = el("button", {
        type: "button", tabindex: "-1", "aria-label": `Remove ${item.name}`,
      }, "×");
      remove.addEventListener("click", () => this.#remove(index));
      const chip = el("li", { class: "chip", "data-index": index }, edit, remove);
      if (item.definition) chip.dataset.defined = "";
      chip.style.setProperty("--h", hue(index));
      return chip;
    }));
    if (focused >= 0) this.#chip(focused)?.focus();
  }
}
