// The routes that failed in the last fifteen minutes, each with its owner.

import { count, h, percent, timeElement } from "./dom.js";

export class FailingRoutes {
  element;
  #body = h("tbody");
  #shown = "";

  constructor() {
    const heads = ["Route", "Plugin", "Failed", "Share", "Last error", "At"].map((label, index) => h("th", { scope: "col", class: index === 2 || index === 3 ? "number" : "" }, label));
    this.element = h(
      "section",
      { class: "failing", "aria-labelledby": "failing-title", hidden: true },
      h("h2", { id: "failing-title" }, "Failing routes", h("small", {}, "last 15 minutes, the newest first")),
      h("div", { class: "wide-table" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads)), this.#body)),
    );
  }

  /** Show these routes; without any, nothing. */
  show(routes) {
    const key = JSON.stringify(routes);
    if (key === this.#shown) return;
    this.#shown = key;
    this.element.hidden = !routes.length;
    this.#body.replaceChildren(...routes.map(row));
  }
}

function row({ route, plugin, requests, failed, recent, error, at }) {
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, route)),
    h("td", {}, plugin ? h("a", { href: `#/plugins/${plugin}` }, plugin) : h("span", { class: "none" }, "the service")),
    h("td", { class: `number ${recent ? "bad" : ""}` }, count(failed)),
    h("td", { class: "number" }, percent(failed / requests)),
    h("td", {}, error),
    h("td", {}, timeElement(at)),
  );
}
