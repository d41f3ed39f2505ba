// Pictures of streams: asked for only while they are seen, one at a time for each, a few at once for all.

import { isElsewhere } from "./fleet.js";
import { token } from "./steer.js";

/** Shortest time, in milliseconds, between two pictures of one stream; longest wait for one. */
const PAUSE = 1000;
const PATIENCE = 8000;
/** How many are asked for at once: a browser has six connections to a host, of which two are taken. */
const AT_ONCE = 3;

/** While the newest frame is not older than this, in seconds, the next one is waited for. */
const COMING = 3;

/** Whether there is a newer picture of a stream than the one of this time (null: none is shown). */
export function isWanted(feed, stream, shown) {
  if (!stream || feed.lost) return false;
  if (isElsewhere(stream)) return stream.status === "in_progress" && Boolean(stream.fleet?.alive);
  const age = feed.ageOf(stream);
  const comes = stream.worker !== null && age !== null && age < COMING;
  return comes || (stream.preview !== null && (shown === null || stream.preview > shown));
}

const waiting = [];
let under_way = 0;

/** Do `work` when it is its turn. */
async function inTurn(work) {
  if (under_way >= AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  under_way += 1;
  try {
    return await work();
  } finally {
    under_way -= 1;
    waiting.shift()?.();
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.preview?.look(isIntersecting);
});

/** A canvas that shows the newest picture of a stream; `drawn(time)` is called with each picture's time. */
export class Preview {
  #canvas;
  #url;
  #wanted;
  #drawn;
  #inView = false;
  #busy = false;
  #timer = 0;
  #closed = false;
  #shown = null;

  /** `wanted(shown)` tells whether there is a newer picture than the one of that time (null: none). */
  constructor(canvas, url, wanted, drawn) {
    this.#canvas = canvas;
    this.#url = url;
    this.#wanted = wanted;
    this.#drawn = drawn;
    canvas.preview = this;
    seen.observe(canvas);
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    seen.unobserve(this.#canvas);
  }

  look(inView) {
    this.#inView = inView;
    if (inView) this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    if (this.#busy || this.#closed || !this.#inView) return;
    const begun = performance.now();
    this.#busy = true;
    try {
      if (!document.hidden && this.#wanted(this.#shown)) await inTurn(() => this.#fetch());
    } catch {
      // A picture that does not come is seen by the age of the one before.
    } finally {
      this.#busy = false;
    }
    this.#timer = setTimeout(() => this.#ask(), Math.max(0, PAUSE - (performance.now() - begun)));
  }

  async #fetch() {
    if (this.#closed || !this.#inView) return;
    const given = token.get();
    const response = await fetch(this.#url, {
      headers: given ? { Authorization: `Bearer ${given}` } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!response.ok) return;
    const at = Number(response.headers.get("X-Frame-Time"));
    const picture = await createImageBitmap(await response.blob());
    if (this.#closed) return;
    const { width, height } = picture;
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    this.#canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
    this.#shown = at;
    this.#drawn(at);
  }
}
