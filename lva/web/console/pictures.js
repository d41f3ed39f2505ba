// Hand-drawn pictures: spark lines, gauges, the ledger as a flow, histograms. All SVG or plain boxes.

import { count, counted, h, percent, short, svg } from "./dom.js";

const SPARK = { width: 112, height: 24 };

/** A spark line, as an SVG that `drawSpark` fills. */
export const spark = () =>
  svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "area" }),
    svg("path", { class: "stroke" }),
  );

/** Draw the newest 60 values; the right edge is now. */
export function drawSpark(element, values) {
  const { width, height } = SPARK;
  const most = Math.max(...values, 1e-9);
  const step = width / 59;
  const first = width - (values.length - 1) * step;
  const points = values.map((value, index) => {
    const y = height - 1.5 - (value / most) * (height - 4);
    return `${(first + index * step).toFixed(1)} ${y.toFixed(1)}`;
  });
  const line = values.length > 1 ? `M${points.join("L")}` : "";
  const [area, stroke] = element.children;
  stroke.setAttribute("d", line);
  area.setAttribute("d", line && `${line}V${height}H${first.toFixed(1)}Z`);
}

/** A bar that is so full. */
export function gauge() {
  const bar = h("i");
  return { element: h("span", { class: "gauge", "aria-hidden": "true" }, bar), bar };
}

export function drawGauge({ element, bar }, share) {
  bar.style.width = `${Math.min(1, share ?? 0) * 100}%`;
  element.dataset.level = share >= 0.9 ? "high" : share >= 0.5 ? "some" : "low";
}

const REASONS = {
  overflow: "buffer full",
  max_attempts: "too many attempts",
  max_age: "too old",
  shutdown: "at shutdown",
  plugin_failed: "plugin failed",
  spool_damaged: "spool damaged",
};

/** Where the accepted points are: [label, count, kind] for each place that has any, and for the usual ones. */
export function places(ledger) {
  const dropped = Object.entries(ledger.dropped)
    .filter(([, points]) => points)
    .map(([reason, points]) => [`dropped: ${REASONS[reason] ?? reason}`, points, "bad"]);
  return [
    ["delivered", ledger.delivered, "good"],
    ["in flight", ledger.in_flight, "calm"],
    ["queued", ledger.queued, "wait"],
    ...(ledger.kept ? [["kept for the next run", ledger.kept, "wait"]] : []),
    ...(ledger.rejected ? [["rejected by the plugin", ledger.rejected, "warn"]] : []),
    ...dropped,
  ];
}

/** Height of everything that was accepted, and least room of each place, in pixels. */
const THICK = 72;
const GAP = 34;

/** A ledger as a flow: what came in, and where it went, [label, count, kind] each; widths are shares. */
export function flow(came, what, rows, width) {
  const narrow = width < 460;
  const left = narrow ? 14 : 132;
  const right = Math.max(left + 60, width - (narrow ? 190 : 220));
  const sizes = rows.map(([, points]) => (points ? Math.max(1.5, (points / (came || 1)) * THICK) : 0));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const rooms = sizes.map((size) => Math.max(GAP, size + 10));
  const height = rooms.reduce((sum, room) => sum + room, 0) + 4;
  const top = (height - total) / 2;
  const middle = (left + right) / 2;
  const ribbons = [];
  const labels = [];
  let from = top;
  let above = 2;
  rows.forEach(([label, points, kind], index) => {
    const size = sizes[index];
    const centre = above + rooms[index] / 2;
    above += rooms[index];
    const to = centre - size / 2;
    if (size) {
      ribbons.push(
        svg("path", {
          class: `ribbon ${kind}`,
          d: `M${left + 6} ${from}C${middle} ${from} ${middle} ${to} ${right} ${to}v${size}C${middle} ${to + size} ${middle} ${from + size} ${left + 6} ${from + size}Z`,
        }),
        svg("rect", { class: `post ${kind}`, x: right, y: to, width: 4, height: size }),
      );
    }
    from += size;
    const share = points && came ? svg("tspan", { class: "label", dx: 8 }, percent(points / came)) : null;
    labels.push(
      svg("text", { x: right + 12, y: centre - 2, class: points ? "value" : "value none" }, count(points), share),
      svg("text", { x: right + 12, y: centre + 12, class: "label" }, label),
    );
  });
  const source = narrow
    ? []
    : [
        svg("text", { x: left - 10, y: height / 2 - 1, class: "value end" }, count(came)),
        svg("text", { x: left - 10, y: height / 2 + 13, class: "label end" }, what),
      ];
  return svg(
    "svg",
    { class: "flow", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    total ? svg("rect", { class: "post all", x: left, y: top, width: 6, height: total }) : null,
    ribbons,
    source,
    labels,
  );
}

/** The same for those who do not see it. */
export const flowInWords = (came, noun, what, rows) =>
  h("p", { class: "hidden" }, `${counted(came, noun)} ${what}: ` + rows.map(([label, some]) => `${count(some)} ${label}`).join(", "));

/** A histogram as rows: the bucket, a bar, the count. */
export function histogram({ bounds, counts }, format, nothing) {
  const total = counts.reduce((sum, value) => sum + value, 0);
  if (!total) return h("p", { class: "empty" }, nothing);
  const most = Math.max(...counts);
  const used = counts.flatMap((value, index) => (value ? [index] : []));
  const rows = counts.slice(used[0], used.at(-1) + 1).map((value, offset) => {
    const index = used[0] + offset;
    const label = index < bounds.length ? `≤ ${format(bounds[index])}` : `> ${format(bounds.at(-1))}`;
    const bar = h("i");
    bar.style.width = `${(value / most) * 100}%`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", { class: "portion", "aria-hidden": "true" }, h("span", {}, bar)),
      h("td", { class: "number" }, count(value)),
    );
  });
  return h("table", { class: "histogram" }, h("tbody", {}, rows));
}

/** A mean with its unit, of a histogram with a sum. */
export function mean({ counts, sum }, format = short) {
  const total = counts.reduce((all, value) => all + value, 0);
  return total ? format(sum / total) : "–";
}
