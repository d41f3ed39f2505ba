// What analytics plugins have seen in a stream lately, in a few words.

import { h, lasted, say } from "./dom.js";

/** The most that is told of one stream. */
const MOST = 3;

/** The name of what an event begins, ends or tells, and which of these it does. */
export function kindOf({ event_type: type }) {
  const [, kind, step] = /^(.*?)(?:_(start|end))?$/.exec(type);
  return [kind.replaceAll("_", " "), step];
}

/**
 * The newest of each kind, newest first: [{what, time, lasts}]. `lasts`: it has started and not ended, since frames come.
 */
function lately({ newest, status, changes }, from) {
  const connected = status === "in_progress" ? (changes.findLast(({ status: to, before }) => to === "in_progress" && before !== to)?.time ?? 0) : Infinity;
  const found = new Map();
  for (const event of newest) {
    const [what, step] = kindOf(event);
    found.delete(what);
    found.set(what, { what, time: event.time, lasts: step === "start" && event.time > connected - 1 });
  }
  return [...found.values()].filter(({ time, lasts }) => lasts || time > from).slice(-MOST).reverse();
}

/** Badges: "motion now", "motion 12 s ago". */
export class Seen {
  element = h("ul", { class: "lately", "aria-label": "Seen lately" });

  /** Write what was seen until a time, as far as it is not older than the feed's window. */
  show(stream, { at, window }) {
    const seen = lately(stream, at - window);
    while (this.element.children.length > seen.length) this.element.lastChild.remove();
    seen.forEach(({ what, time, lasts }, index) => {
      const badge = this.element.children[index] ?? this.element.appendChild(h("li"));
      badge.classList.toggle("lasts", lasts);
      say(badge, lasts ? `${what} now` : `${what} ${lasted(Math.max(0, at - time))} ago`);
    });
    this.element.hidden = !seen.length;
  }
}
