// A part of a page: a heading, and what is shown below it.

import { h } from "./dom.js";

/** A section whose content is written anew only when what it shows has changed. */
export class Part {
  element;
  #body = h("div", { class: "body" });
  #shown = null;
  #draw;

  constructor(title, draw, kind = "", ...beside) {
    const id = `part-${title.toLowerCase().replaceAll(/\W+/g, "-")}`;
    this.#draw = draw;
    this.element = h("section", { class: `part ${kind}`, "aria-labelledby": id }, h("div", { class: "head" }, h("h2", { id }, title), beside), this.#body);
    this.element.hidden = true;
  }

  /** Show a value; without one, nothing. */
  show(value) {
    const key = JSON.stringify(value ?? null);
    if (key === this.#shown) return;
    this.#shown = key;
    this.element.hidden = value === null || value === undefined;
    const drawn = this.element.hidden ? [] : [this.#draw(value, this.#body.clientWidth)];
    this.#body.replaceChildren(...drawn.flat().filter(Boolean));
  }

  /** Draw again, as after a change of width. */
  redraw() {
    const shown = this.#shown;
    this.#shown = null;
    if (shown !== null) this.show(JSON.parse(shown));
  }
}
