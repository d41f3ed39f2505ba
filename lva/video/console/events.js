// The newest events of a stream as a list, each with its picture while the service keeps it.

import { h, time, timeElement } from "./dom.js";

export class EventList {
  element = h("div", { class: "scroll events", tabIndex: 0, role: "group", "aria-label": "Newest events" });
  #none = h("p", { class: "empty" }, "Nothing was seen yet.");
  #list = h("ol");
  #items = new Map();

  constructor() {
    this.element.append(this.#none, this.#list);
  }

  /** Show events, given oldest first. What is shown already stays as it is: pictures are not loaded again. */
  show(events) {
    const ids = new Set(events.map(({ event_id: id }) => id));
    for (const [id, item] of this.#items)
      if (!ids.has(id)) {
        item.remove();
        this.#items.delete(id);
      }
    for (const event of events) {
      if (this.#items.has(event.event_id)) continue;
      const item = row(event);
      this.#items.set(event.event_id, item);
      this.#list.prepend(item);
    }
    this.#none.hidden = events.length > 0;
  }
}

const row = (event) =>
  h("li", {}, timeElement(event.time), h("span", {}, h("b", {}, event.event_type), ` ${event.analytics}, frame ${event.frame}`), h("code", {}, JSON.stringify(event.data)), thumbnail(event));

/** A small picture that opens the whole one; nothing if there is none, or not any more. */
function thumbnail({ image, event_type: type, time: at }) {
  if (!image?.url) return null;
  const link = h("a", { class: "thumbnail", href: image.url, target: "_blank", rel: "noopener" });
  link.append(h("img", { loading: "lazy", decoding: "async", alt: `Picture of ${type} at ${time(at)}`, width: 128, height: 72, onerror: () => link.remove(), src: image.url }));
  return link;
}
