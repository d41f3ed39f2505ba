// What is drawn over a picture: the regions that are looked at, and the rectangles that events name.

import { svg } from "./dom.js";
import { kindOf } from "./seen.js";

/** How deep in an event's data rectangles are looked for, and how many are drawn. */
const DEPTH = 4;
const MOST = 50;
/** For how many seconds an event that has no end is drawn. */
const MOMENT = 5;

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

/**
 * What is seen now: [{what, event}]. A `…_start` holds until the `…_end` of the same analytics plugin and region or text;
 * any other event for some seconds.
 */
export function seenNow(events, at) {
  const found = new Map();
  for (const event of events) {
    const { analytics, data } = event;
    const [kind, step] = kindOf(event);
    const which = [data.region, data.text, data.name].find((value) => typeof value === "string") ?? "";
    const key = JSON.stringify([analytics, kind, which]);
    if (step === "end" || (step === undefined && at - event.time > MOMENT)) found.delete(key);
    else found.set(key, { what: [kind, which].filter(Boolean).join(": "), event });
  }
  return [...found.values()];
}

/** How many pixels of a picture a unit of a region is, across and down. */
const scale = ({ mode }, size) => (mode === "percent" ? [size.width / 100, size.height / 100] : [1, 1]);

/** Draw what is seen, and the regions of the stream's definition, over a picture of this size. */
export function draw(element, size, { roi, droi, regions }, seen) {
  element.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  const unit = Math.max(size.width, size.height) / 640;
  const named = [
    [roi, "region of interest"],
    [droi, "where results count"],
    ...regions.map(({ name, shape }) => [shape, name]),
  ].filter(([shape]) => shape);
  const shapes = named.map(([shape, label]) => region(shape, label, size, unit));
  for (const { what, event } of seen) for (const box of boxes(event.data)) shapes.push(outlined("rect", box, box, "seen", unit, box.label || what));
  element.replaceChildren(...shapes);
}

function region(shape, label, size, unit) {
  const [across, down] = scale(shape, size);
  if (Array.isArray(shape.points)) {
    const points = shape.points.map((point) => (Array.isArray(point) ? point : [point.x, point.y])).map(([x, y]) => [x * across, y * down]);
    const [x, y] = points.reduce((first, point) => (point[1] < first[1] ? point : first), points[0] ?? [0, 0]);
    return outlined("polygon", { points: points.map((point) => point.join()).join(" ") }, { x, y }, "roi", unit, label);
  }
  const rectangle = { x: shape.x * across, y: shape.y * down, width: shape.width * across, height: shape.height * down };
  return outlined("rect", rectangle, { x: rectangle.x, y: rectangle.y + rectangle.height - 22 * unit }, "roi", unit, label);
}

function outlined(tag, attributes, { x, y }, kind, unit, label) {
  const { label: _, ...shape } = attributes;
  const drawn = { ...shape, "vector-effect": "non-scaling-stroke" };
  return svg("g", { class: kind }, svg(tag, { ...drawn, class: "halo" }), svg(tag, { ...drawn, class: "line" }), svg("text", { x: x + 5 * unit, y: y + 16 * unit, "font-size": 13 * unit }, label));
}
