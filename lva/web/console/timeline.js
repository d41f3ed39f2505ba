// Changes of state: as lanes over the last fifteen minutes, and as a list.

import { h, mark, svg, time, timeElement, word } from "./dom.js";

const LANES = 12;
const ROW = 22;
const LISTED = 8;

const calm = new Set(["loaded", "initializing", "running"]);

/** The spans of one plugin's states: [{state, from, to}], oldest first. */
export function spans(steps, state, since, begin, end) {
  const found = [];
  let last = end;
  for (let index = steps.length - 1; index >= 0; index -= 1) {
    const step = steps[index];
    if (step.at < last) found.unshift({ state: step.state, from: step.at, to: last });
    last = Math.min(last, step.at);
    if (last <= begin) break;
  }
  if (!steps.length) found.unshift({ state, from: Math.max(begin, since), to: end });
  else if (last > begin && steps[0].from !== "loaded") found.unshift({ state: steps[0].from, from: begin, to: last });
  return found.map((span) => ({ ...span, from: Math.max(begin, span.from) })).filter((span) => span.to > span.from);
}

/** How each state is drawn: thin while all is well, thicker the more it matters; hatched or hollow, too. */
const HEIGHTS = { running: 3, initializing: 8, loaded: 2, backoff: 12, failed: 12, abandoned: 12, stopping: 8, stopped: 2 };

/** The lane of one plugin. */
export function lane(found, begin, end, width, y) {
  const scale = (at) => ((at - begin) / (end - begin)) * width;
  return found.map(({ state, from, to }) => {
    const height = HEIGHTS[state] ?? 3;
    const x = scale(from);
    return svg("rect", {
      class: `span state-${state}`,
      x: x.toFixed(1),
      y: y - height / 2,
      width: Math.max(1.5, scale(to) - x).toFixed(1),
      height,
    });
  });
}

/** What the lanes are filled with: one definition for the page. */
export const patterns = () =>
  svg(
    "svg",
    { class: "patterns", width: 0, height: 0, "aria-hidden": "true" },
    svg(
      "defs",
      {},
      svg(
        "pattern",
        { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { width: 5, height: 5, class: "hatch-ground" }),
        svg("rect", { width: 2, height: 5, class: "hatch-line" }),
      ),
    ),
  );

/** Marks of the time below lanes: every five minutes. */
function ruler(begin, end, width, y) {
  const marks = [];
  for (let at = Math.ceil(begin / 300) * 300; at < end; at += 300) {
    const x = ((at - begin) / (end - begin)) * width;
    if (x < 16 || x > width - 16) continue;
    marks.push(
      svg("line", { class: "rule", x1: x, x2: x, y1: 0, y2: y }),
      svg("text", { class: "label middle", x, y: y + 14 }, time(at).split(" ").pop().slice(0, 5)),
    );
  }
  return marks;
}

/** The timeline of all plugins. */
export class Timeline {
  element;
  #model;
  #summary = h("p", { class: "empty" });
  #names = h("div", { class: "names", "aria-hidden": "true" });
  #lanes = h("div", { class: "lanes", "aria-hidden": "true" });
  #list = h("ol", { class: "steps" });
  #more = h("button", { type: "button", class: "quiet", onclick: () => this.#toggle() });
  #all = false;

  constructor(model) {
    this.#model = model;
    this.element = h(
      "section",
      { class: "timeline", "aria-labelledby": "timeline-title" },
      h("h2", { id: "timeline-title" }, "Changes of state", h("small", {}, "last 15 minutes")),
      this.#summary,
      h("div", { class: "chart" }, this.#names, this.#lanes),
      this.#list,
      this.#more,
    );
    new ResizeObserver(() => this.#model.known && this.draw()).observe(this.#lanes);
  }

  /** Draw the lanes as of now. */
  draw() {
    const { at: end, window, plugins } = this.#model;
    const begin = end - window;
    const steps = Map.groupBy(this.#model.timeline, (step) => step.plugin);
    const shown = [...plugins.values()]
      .map((plugin) => {
        const own = steps.get(plugin.name) ?? [];
        return { plugin, own, found: spans(own, plugin.state, plugin.since, begin, end) };
      })
      .filter(({ found }) => found.some(({ state }) => !calm.has(state)) || found.at(-1)?.state !== "running")
      .sort((a, b) => (b.own.at(-1)?.at ?? 0) - (a.own.at(-1)?.at ?? 0));
    const drawn = shown.slice(0, LANES);
    this.#summary.textContent = this.#inWords(shown.length, drawn.length);
    this.#summary.hidden = !this.#summary.textContent;
    this.#names.replaceChildren(...drawn.map(({ plugin }) => h("span", {}, plugin.name)));
    const width = this.#lanes.clientWidth;
    if (!drawn.length || !width) return this.#lanes.replaceChildren();
    const height = drawn.length * ROW;
    this.#lanes.replaceChildren(
      svg(
        "svg",
        { width, height: height + 18, viewBox: `0 0 ${width} ${height + 18}` },
        ruler(begin, end, width, height),
        drawn.map(({ found }, index) => lane(found, begin, end, width, index * ROW + ROW / 2)),
      ),
    );
  }

  /** Write the list anew: when something has changed. */
  list() {
    const steps = this.#model.timeline.toReversed();
    const shown = this.#all ? steps : steps.slice(0, LISTED);
    this.#list.replaceChildren(...shown.map(stepItem));
    this.#more.hidden = steps.length <= LISTED;
    this.#more.textContent = this.#all ? "Show fewer" : `Show all ${steps.length}`;
    this.#more.setAttribute("aria-expanded", String(this.#all));
  }

  #toggle() {
    this.#all = !this.#all;
    this.list();
  }

  #inWords(changed, drawn) {
    const count = this.#model.plugins.size;
    if (!count) return "No plugin is active.";
    if (!changed) return count === 1 ? "The plugin has been running all the time." : `All ${count} plugins have been running all the time.`;
    return changed > drawn ? `${drawn} of the ${changed} plugins that were not running at times; the list has all.` : "";
  }
}

/** One change of state in a list. */
export function stepItem(step) {
  return h(
    "li",
    {},
    timeElement(step.at),
    h("a", { href: `#/plugins/${step.plugin}` }, step.plugin),
    h("span", { class: "to" }, mark(step.state), word(step.state)),
    h("span", { class: "reason" }, step.reason ?? ""),
  );
}

/** The lane and the list of one plugin. */
export function history(plugin, steps, end, window, width) {
  const begin = end - window;
  const found = spans(steps, plugin.state, plugin.since, begin, end);
  return svg(
    "svg",
    { width, height: ROW + 18, viewBox: `0 0 ${width} ${ROW + 18}`, "aria-hidden": "true" },
    ruler(begin, end, width, ROW),
    lane(found, begin, end, width, ROW / 2),
  );
}
