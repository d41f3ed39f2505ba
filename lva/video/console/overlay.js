// What is drawn over a picture: the region that is looked at, and the rectangles that events name.

import { svg } from "./dom.js";

/** How deep in an event's data rectangles are looked for, and how many are drawn. */
const DEPTH = 4;
const MOST = 50;

/** The rectangles in an event's data: [{x, y, width, height, label}], in pixels of the whole picture. */
export function boxes(data, depth = DEPTH) {
  if (data === null || typeof data !== "object" || depth === 0) return [];
  const { x, y, width, height } = data;
  if ([x, y, width, height].every(Number.isFinite)) return [{ x, y, width, height, label: labelOf(data) }];
  return Object.values(data)
    .flatMap((value) => boxes(value, depth - 1))
    .slice(0, MOST);
}

function labelOf({ label, name, text, score, confidence }) {
  const what = [label, name, text].find((value) => typeof value === "string") ?? "";
  const sure = [score, confidence].find(Number.isFinite);
  return [what, sure === undefined ? "" : sure.toFixed(2)].filter(Boolean).join(" ");
}

/** The newest event of each analytics plugin: what it says holds until its next. */
export function newest(events) {
  const found = new Map();
  for (const event of events) found.set(event.analytics, event);
  return [...found.values()];
}

/** A region of a stream's definition in pixels of a picture of this size. */
function placed({ x, y, width, height, mode }, size) {
  const [across, down] = mode === "percent" ? [size.width / 100, size.height / 100] : [1, 1];
  return { x: x * across, y: y * down, width: width * across, height: height * down };
}

/** Draw them, and the regions of the stream's definition, over a picture of this size. */
export function draw(element, size, { roi, droi }, events) {
  element.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  const unit = Math.max(size.width, size.height) / 640;
  const regions = [[roi, "region of interest"], [droi, "where results count"]].filter(([region]) => region);
  const shapes = regions.map(([region, label]) => rectangle(placed(region, size), "roi", unit, label));
  for (const event of newest(events))
    for (const box of boxes(event.data)) shapes.push(rectangle(box, "seen", unit, [event.analytics, box.label].filter(Boolean).join(": ")));
  element.replaceChildren(...shapes);
}

function rectangle({ x, y, width, height }, kind, unit, label) {
  return svg(
    "g",
    { class: kind },
    svg("rect", { x, y, width, height, "vector-effect": "non-scaling-stroke", class: "halo" }),
    svg("rect", { x, y, width, height, "vector-effect": "non-scaling-stroke" }),
    svg("text", { x: x + 5 * unit, y: y + 16 * unit, "font-size": 13 * unit }, label),
  );
}
