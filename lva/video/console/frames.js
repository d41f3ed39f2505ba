// What became of a stream's frames: as a bar, and as rows of a flow.

import { count, h } from "./dom.js";

const SKIPPED = { rate: "by the rate", not_key: "not a key frame", corrupt: "damaged" };
const DROPPED = { busy: "analytics busy", stale: "too old", stop: "at the worker's end" };

const sum = (counts) => Object.values(counts).reduce((total, value) => total + value, 0);
export const droppedOf = ({ dropped }) => sum(dropped);
export const reconnectsOf = ({ input }) => (input === null ? 0 : sum(input.reconnects));

/** Where the decoded frames are: [label, count, kind] each; reasons that never happened are left out. */
export function rows({ analysed, failed, skipped, dropped, held }) {
  const split = (counts, what, names, kind) =>
    Object.entries(counts)
      .filter(([, value]) => value)
      .map(([reason, value]) => [`${what}: ${names[reason] ?? reason}`, value, kind]);
  return [
    ["analysed", analysed, "good"],
    ...(failed ? [["failed", failed, "bad"]] : []),
    ...split(skipped, "skipped", SKIPPED, "calm"),
    ...split(dropped, "dropped", DROPPED, "warn"),
    ["held", held, "wait"],
  ];
}

/** A bar of the shares, as an element that `drawBar` fills. */
export const bar = () => h("span", { class: "frames-bar", "aria-hidden": "true" });

export function drawBar(element, frames) {
  const shares = [
    ["good", frames.analysed],
    ["calm", sum(frames.skipped)],
    ["wait", frames.held],
    ["warn", droppedOf(frames)],
    ["bad", frames.failed],
  ].filter(([, value]) => value);
  while (element.children.length > shares.length) element.lastChild.remove();
  shares.forEach(([kind, value], index) => {
    const part = element.children[index] ?? element.appendChild(h("i"));
    part.className = kind;
    part.style.flexGrow = value / frames.decoded;
  });
}

/** The same in a few words. */
export function inWords(frames) {
  const told = [`${count(frames.analysed)} of ${count(frames.decoded)} frames analysed`];
  for (const [what, value] of [["skipped", sum(frames.skipped)], ["dropped", droppedOf(frames)], ["failed", frames.failed]]) if (value) told.push(`${count(value)} ${what}`);
  return told.join(", ");
}
